//! Damaged files: a seeded source of damage, and a tally of how they end.
//!
//! The damage depends on nothing but the seed and the original, so a failure is named by two numbers.

use girih::Error;
use girih_compiler::import::error::ImportError;
use std::collections::BTreeMap;
use std::fmt::{Display, Write};

/// A small deterministic generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with that seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { (self.next() % n as u64) as usize }
    }

    /// An integer that programs like to get wrong.
    pub fn absurd(&mut self) -> i64 {
        const ODD: [i64; 20] = [
            0,
            1,
            2,
            3,
            4,
            5,
            7,
            -1,
            -2,
            -3,
            64,
            1000,
            65_536,
            1 << 31,
            (1 << 31) - 1,
            1 << 40,
            i64::MAX,
            i64::MIN,
            i64::MIN + 1,
            -(1 << 31),
        ];
        ODD[self.below(ODD.len())]
    }
}

/// Damages bytes in one to four places.
pub fn blind(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let (from, len) = (random.below(bytes.len()), random.below(40));
                let piece: Vec<u8> = bytes.iter().skip(from).take(len).copied().collect();
                bytes.splice(at..at, piece);
            }
            4 => {
                let end = (at + random.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ if !bytes.is_empty() => bytes[at] = [0xff, 0x7f, 0x80, 0x00, 0x01][random.below(5)],
            _ => {}
        }
    }
    bytes
}

/// An error that a damaged file may cause.
pub trait Refusal: Display {
    /// The exit code of the command, and the stable code.
    fn codes(&self) -> (u8, String);
}

impl Refusal for Error {
    fn codes(&self) -> (u8, String) {
        (self.exit_code(), self.code().to_string())
    }
}

impl Refusal for ImportError {
    fn codes(&self) -> (u8, String) {
        (self.exit_code(), self.code().to_string())
    }
}

/// Counts how files end, and keeps the first message of each ending.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    endings: BTreeMap<String, (usize, String)>,
    /// Files so far.
    pub files: usize,
}

impl Tally {
    /// Takes how a file ended. Panics when it was refused without a message, or with the exit code of a bug.
    pub fn see(&mut self, what: &str, result: Result<(), impl Refusal>) {
        self.files += 1;
        let (ending, message) = match result {
            Ok(()) => ("accepted".to_string(), String::new()),
            Err(e) => {
                let (exit_code, code) = e.codes();
                assert!(matches!(exit_code, 1..=6), "{what}: exit code {exit_code}");
                (format!("exit {exit_code} {code}"), e.to_string())
            }
        };
        assert!(ending == "accepted" || !message.is_empty(), "{what}: no message");
        let first = format!("{what}: {}", message.lines().next().unwrap_or_default());
        self.endings.entry(ending).or_insert((0, first)).0 += 1;
    }

    /// One line an ending, and the first message of it below.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (ending, (count, first)) in &self.endings {
            let _ = writeln!(out, "{count:>4} {ending}\n     {first}");
        }
        out
    }
}
