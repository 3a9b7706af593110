//! The SRAM of a die as elements of the field: each element is at a byte, has a type, and cannot be read at another byte or as another type.

use super::arrays::walk;
use crate::program::Region;
use crate::types::DType;

/// Bytes of a page.
const PAGE: usize = 4096;

/// Elements that begin in one page.
#[derive(Clone, Debug)]
struct Page {
    /// For each byte: the type of the element that begins there, counted from 1; 0 for none.
    tags: Vec<u8>,
    /// Bytes of the smallest element that was ever here.
    unit: usize,
    /// One a unit.
    values: Vec<i64>,
}

impl Page {
    /// Makes room for elements of `unit` bytes.
    fn refine(&mut self, unit: usize) {
        let mut values = vec![0; PAGE / unit];
        for at in (0..PAGE).step_by(self.unit) {
            values[at / unit] = self.values[at / self.unit];
        }
        (self.unit, self.values) = (unit, values);
    }
}

/// The memory of one die.
#[derive(Clone, Debug)]
pub struct Memory {
    pages: Vec<Option<Page>>,
    bytes: i64,
}

impl Memory {
    /// Memory of so many bytes, all undefined.
    pub fn new(bytes: u64) -> Self {
        Memory { pages: vec![None; (bytes as usize).div_ceil(PAGE)], bytes: bytes as i64 }
    }

    fn check(&self, at: i64, dtype: DType) -> Result<usize, String> {
        let size = dtype.size() as i64;
        if at < 0 || at + size > self.bytes || at % size != 0 {
            return Err(format!("there is no place for a {dtype} at {at:#x}"));
        }
        Ok(at as usize)
    }

    /// The elements of a region, row-major.
    pub fn read(&self, region: &Region) -> Result<Vec<i64>, String> {
        let mut wrong = None;
        let mut out = Vec::with_capacity(region.elements());
        self.places(region, &mut |at| match self.get(at, region.dtype) {
            Ok(v) => out.push(v),
            Err(why) => wrong = wrong.take().or(Some(why)),
        });
        wrong.map_or(Ok(out), Err)
    }

    /// Writes a region, row-major.
    pub fn write(&mut self, region: &Region, values: &[i64]) -> Result<(), String> {
        if values.len() != region.elements() {
            return Err(format!("{} elements do not fill a region of {:?}", values.len(), region.dims));
        }
        let mut places = Vec::with_capacity(values.len());
        self.places(region, &mut |at| places.push(at));
        places.into_iter().zip(values).try_for_each(|(at, v)| self.set(at, region.dtype, *v))
    }

    fn places(&self, region: &Region, visit: &mut impl FnMut(i64)) {
        let size = region.dtype.size() as i64;
        walk(&region.dims, &region.strides, 0, &mut |at| visit(region.offset as i64 + at * size));
    }

    fn get(&self, at: i64, dtype: DType) -> Result<i64, String> {
        let at = self.check(at, dtype)?;
        let Some(page) = &self.pages[at / PAGE] else { return Err(format!("nothing was written at {at:#x}")) };
        match page.tags[at % PAGE] {
            0 => Err(format!("no element begins at {at:#x}")),
            tag if tag == dtype as u8 + 1 => Ok(page.values[at % PAGE / page.unit]),
            tag => Err(format!("at {at:#x} is a {}, and it is read as {dtype}", DType::ALL[tag as usize - 1])),
        }
    }

    fn set(&mut self, at: i64, dtype: DType, value: i64) -> Result<(), String> {
        let (at, size) = (self.check(at, dtype)?, dtype.size());
        let new = || Page { tags: vec![0; PAGE], unit: size, values: vec![0; PAGE / size] };
        let page = self.pages[at / PAGE].get_or_insert_with(new);
        if size < page.unit {
            page.refine(size);
        }
        let at = at % PAGE;
        if page.tags[at] != dtype as u8 + 1 {
            page.tags[at..at + size].fill(0);
            // A larger element around it is gone as well.
            for larger in [2, 4, 8].into_iter().filter(|l| *l > size) {
                let head = at & !(larger - 1);
                if let Some(tag) = page.tags[head].checked_sub(1)
                    && DType::ALL[tag as usize].size() == larger
                {
                    page.tags[head] = 0;
                }
            }
            page.tags[at] = dtype as u8 + 1;
        }
        page.values[at / page.unit] = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TensorType;

    #[test]
    fn elements_are_read_as_they_were_written_or_not_at_all() {
        let mut m = Memory::new(5000);
        let r = |offset, dtype, n: usize| Region::dense(offset, &TensorType::new(dtype, [n]));
        assert!(m.read(&r(64, DType::F32, 1)).is_err());
        m.write(&r(64, DType::F32, 4), &[1, 2, 3, 4]).unwrap();
        assert_eq!(m.read(&r(68, DType::F32, 2)).unwrap(), [2, 3]);
        assert!(
            m.read(&r(64, DType::I32, 1)).is_err() && m.read(&r(66, DType::BF16, 1)).is_err() && m.read(&r(64, DType::F32, 5)).is_err()
        );
        m.write(&r(70, DType::BF16, 1), &[9]).unwrap();
        assert!(m.read(&r(68, DType::F32, 1)).is_err(), "its upper half was overwritten");
        assert_eq!((m.read(&r(70, DType::BF16, 1)).unwrap(), m.read(&r(72, DType::F32, 2)).unwrap()), (vec![9], vec![3, 4]));
        m.write(&r(64, DType::F64, 2), &[5, 6]).unwrap();
        assert!(m.read(&r(70, DType::BF16, 1)).is_err() && m.read(&r(72, DType::F32, 1)).is_err());
        assert_eq!(m.read(&r(64, DType::F64, 2)).unwrap(), [5, 6]);
        assert!(m.write(&r(4998, DType::F32, 1), &[0]).is_err() && m.write(&r(0, DType::F32, 2), &[0]).is_err());
    }
}
