//! Reading numbers, strings and sections from bytes, with the offset in every error.

use super::{broken, damaged};
use crate::import::error::Problem;

/// A position in some bytes of the file.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the bytes start in the payload.
    base: usize,
}

/// A section: its id and what it holds.
pub struct Section<'a> {
    pub id: u8,
    pub data: Cursor<'a>,
}

impl<'a> Cursor<'a> {
    /// The start of these bytes, which stand at `base` in the payload.
    pub fn new(bytes: &'a [u8], base: usize) -> Self {
        Cursor { bytes, at: 0, base }
    }

    /// Where the next byte stands in the payload.
    pub fn offset(&self) -> usize {
        self.base + self.at
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn byte(&mut self) -> Result<u8, Problem> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| damaged(self.offset(), "the bytes end too early"))?;
        self.at += 1;
        Ok(byte)
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Problem> {
        let stop = self.at.checked_add(len).filter(|stop| *stop <= self.bytes.len());
        let stop = stop.ok_or_else(|| damaged(self.offset(), "a length leads behind the end"))?;
        let taken = &self.bytes[self.at..stop];
        self.at = stop;
        Ok(taken)
    }

    /// A number of one to nine bytes; the zeros at the low end of the first tell how many more follow.
    pub fn varint(&mut self) -> Result<u64, Problem> {
        let first = self.byte()?;
        if first & 1 == 1 {
            return Ok(u64::from(first >> 1));
        }
        let more = first.trailing_zeros() as usize;
        let rest = self.take(more)?;
        let mut word = [0u8; 8];
        if more == 8 {
            word.copy_from_slice(rest);
            return Ok(u64::from_le_bytes(word));
        }
        word[0] = first;
        word[1..=more].copy_from_slice(rest);
        Ok(u64::from_le_bytes(word) >> (more + 1))
    }

    /// A signed number; the lowest bit is the sign.
    pub fn signed(&mut self) -> Result<i64, Problem> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A number with a flag in its lowest bit.
    pub fn flagged(&mut self) -> Result<(u64, bool), Problem> {
        let value = self.varint()?;
        Ok((value >> 1, value & 1 == 1))
    }

    /// A number of things of which each takes at least one of the bytes left.
    pub fn count(&mut self) -> Result<usize, Problem> {
        let offset = self.offset();
        let count = self.varint()?;
        self.plausible(count, offset)
    }

    /// Checks a number of things of which each takes at least one of the bytes left.
    pub fn plausible(&self, count: u64, offset: usize) -> Result<usize, Problem> {
        let fits = usize::try_from(count).ok().filter(|count| *count <= self.left());
        fits.ok_or_else(|| damaged(offset, &format!("{count} things cannot stand in {} bytes", self.left())))
    }

    /// An index into a table.
    pub fn index(&mut self, len: usize, what: &str) -> Result<usize, Problem> {
        let offset = self.offset();
        let index = self.varint()?;
        within(index, len, what, offset)
    }

    /// Bytes with their length in front.
    pub fn blob(&mut self) -> Result<&'a [u8], Problem> {
        let len = self.count()?;
        self.take(len)
    }

    /// Text that ends with a zero byte.
    pub fn terminated(&mut self) -> Result<&'a str, Problem> {
        let offset = self.offset();
        let len = self.bytes[self.at..].iter().position(|b| *b == 0).ok_or_else(|| damaged(offset, "a text has no end"))?;
        let text = self.take(len)?;
        self.at += 1;
        std::str::from_utf8(text).map_err(|_| damaged(offset, "a text is no UTF-8"))
    }

    /// A section with its header.
    pub fn section(&mut self) -> Result<Section<'a>, Problem> {
        let id = self.byte()?;
        let len = self.varint()?;
        if id & 0x80 != 0 {
            let offset = self.offset();
            let align = usize::try_from(self.varint()?).ok().filter(|a| a.is_power_of_two() && *a <= 1 << 20);
            let align = align.ok_or_else(|| damaged(offset, "an alignment is no small power of two"))?;
            while !self.offset().is_multiple_of(align) {
                if self.byte()? != 0xcb {
                    return Err(damaged(self.offset() - 1, "padding has a value other than 0xCB"));
                }
            }
        }
        let base = self.offset();
        let len = self.plausible(len, base)?;
        Ok(Section { id: id & 0x7f, data: Cursor::new(self.take(len)?, base) })
    }

    /// The next `len` bytes on their own.
    pub fn part(&mut self, len: usize) -> Result<Cursor<'a>, Problem> {
        let base = self.offset();
        Ok(Cursor::new(self.take(len)?, base))
    }
}

/// Checks an index into a table.
pub fn within(index: u64, len: usize, what: &str, offset: usize) -> Result<usize, Problem> {
    let fits = usize::try_from(index).ok().filter(|i| *i < len);
    fits.ok_or_else(|| broken(offset, &format!("{what} {index} does not exist, there are {len}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length() {
        for (bytes, want) in [
            (&[0x01][..], 0),
            (&[0xff], 127),
            (&[0x02, 0x02], 128),
            (&[0xfe, 0xff], 16383),
            (&[0x04, 0x00, 0x02], 1 << 14),
            (&[0x80, 0, 0, 0, 0, 0, 0, 1], 1 << 48),
            (&[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX),
        ] {
            let mut c = Cursor::new(bytes, 0);
            assert_eq!(c.varint().unwrap(), want, "{bytes:?}");
            assert_eq!(c.left(), 0);
        }
        assert_eq!(Cursor::new(&[0x03], 0).signed().unwrap(), -1);
        assert_eq!(Cursor::new(&[0x05], 0).signed().unwrap(), 1);
        assert!(Cursor::new(&[0x04, 0x00], 0).varint().is_err());
        assert!(Cursor::new(&[0xff], 0).count().is_err());
    }
}
