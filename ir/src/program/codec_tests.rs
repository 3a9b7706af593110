//! The container: round trips in both codecs, golden bytes, and damage.

use super::*;
use crate::program::parse_program;

fn file() -> ProgramFile {
    let text = include_str!("../check/samples/matmul.txt");
    let mut program = parse_program(text).unwrap_or_else(|e| panic!("{e}"));
    program.literals.push(Literal::from_f32(&[2], &[1.5, -2.0]).unwrap());
    let weight = Literal::from_f32(&[8, 6], &(0..48).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
    let step = Literal::from_i64(&[], &[7]).unwrap();
    let weights = Weights::from([("w".to_string(), weight), ("step".to_string(), step)]);
    ProgramFile { program, weights, info: vec![("model".to_string(), "matmul.onnx".to_string())] }
}

#[test]
fn files_round_trip_and_are_deterministic() {
    let file = file();
    for codec in [Codec::Bincode, Codec::Postcard] {
        let bytes = write_with(&file, codec).unwrap();
        assert_eq!(write_with(&file, codec).unwrap(), bytes);
        let back = read(&bytes).unwrap();
        assert_eq!(back, file);
        assert_eq!(write_with(&back, codec).unwrap(), bytes);
    }
    let bare = ProgramFile { weights: Weights::new(), info: Vec::new(), ..file };
    assert_eq!(read(&write(&bare).unwrap()), Ok(bare));
}

#[test]
fn every_sample_round_trips() {
    let samples = [
        include_str!("../check/samples/halo.txt"),
        include_str!("../check/samples/all_gather.txt"),
        include_str!("../check/samples/loop.txt"),
        include_str!("../check/samples/nested.txt"),
        include_str!("../check/samples/while.txt"),
    ];
    for text in samples {
        let program = parse_program(text).unwrap_or_else(|e| panic!("{e}"));
        let file = ProgramFile { program, weights: Weights::new(), info: Vec::new() };
        assert_eq!(read(&write(&file).unwrap()), Ok(file));
    }
}

#[test]
fn weights_are_aligned_raw_bytes() {
    let bytes = write(&file()).unwrap();
    let (_, sections) = open(&bytes).unwrap();
    for (tag, body) in &sections {
        let offset = body.as_ptr() as usize - bytes.as_ptr() as usize;
        assert_eq!(offset % ALIGNMENT, 0, "{tag:?}");
    }
    let data = sections.iter().find(|(t, _)| t == b"WDAT").unwrap().1;
    // `step` comes first by name, then `w` at the next multiple of 64.
    assert_eq!(&data[..8], 7i64.to_le_bytes());
    assert_eq!(&data[64 + 4 * 47..], 47f32.to_le_bytes());
}

/// The bytes of version 1 may not change: other versions of the program have to read them. The target's own text may, so it is fixed.
#[test]
fn golden_bytes_of_version_1() {
    let bytes = write(&file()).unwrap();
    assert_eq!(&bytes[..16], b"\x89GIRIH\r\n\x01\x00\x01\x00\x04\x00\x00\x00");
    let p = file().program;
    let parts = (&p.dies, &p.streams, &p.channels, &p.host, &p.state, &p.fused, &p.claims, WireStep::of(&p.step));
    let digest = |codec: Codec| blake3::hash(&codec.encode(&parts).unwrap()).to_hex()[..16].to_string();
    insta::assert_snapshot!(format!("bincode {} postcard {}", digest(Codec::Bincode), digest(Codec::Postcard)));
}

#[test]
fn truncated_files_are_refused() {
    let bytes = write(&file()).unwrap();
    for len in (0..200).chain((200..bytes.len()).step_by(37)).chain([bytes.len() - 1]) {
        assert!(read(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(read(&longer), Err(CodecError::Layout { .. })));
}

#[test]
fn flipped_bits_are_refused() {
    let bytes = write(&file()).unwrap();
    let mut seed = 11u64;
    for _ in 0..500 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bit = (seed >> 20) as usize % (bytes.len() * 8);
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad).is_err(), "bit {bit}");
    }
}

/// A forger can make every hash right, so the decoders and the validation have to stand on their own.
#[test]
fn forged_sections_never_panic() {
    let file = file();
    for codec in [Codec::Bincode, Codec::Postcard] {
        let bytes = write_with(&file, codec).unwrap();
        let (_, sections) = open(&bytes).unwrap();
        let (mut seed, mut accepted) = (5u64, 0);
        for round in 0..1500 {
            let mut forged: Vec<Section> = sections.iter().map(|(tag, b)| Section { tag: *tag, bytes: b.to_vec() }).collect();
            for _ in 0..=round % 3 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                // The program's tables come after the text of the target.
                let section = [0, 0, 0, 1][(seed >> 60) as usize % 4];
                let body = &mut forged[section].bytes;
                let from = if section == 0 { body.len() / 2 } else { 0 };
                let at = from + (seed >> 20) as usize % (body.len() - from);
                body[at] = (seed >> 12) as u8;
            }
            if let Ok(read) = read(&layout(codec, &forged)) {
                accepted += 1;
                let text = read.program.to_string();
                assert!(!text.is_empty());
                // Whatever the checker says, it says it without a panic.
                let _ = crate::check::check(read.program);
            }
        }
        assert!(accepted > 0, "nothing got past the decoder, so nothing was tested");
    }
}

#[test]
fn errors_say_what_to_do() {
    let bytes = write(&file()).unwrap();
    let with = |at: usize, value: u8| {
        let mut bad = bytes.clone();
        bad[at] = value;
        read(&bad).unwrap_err().to_string()
    };
    let mut no_weights: Vec<Section> = open(&bytes).unwrap().1.iter().map(|(tag, b)| Section { tag: *tag, bytes: b.to_vec() }).collect();
    no_weights.retain(|s| s.tag != *b"WDAT");
    let twice = [Section { tag: *b"PROG", bytes: vec![] }, Section { tag: *b"PROG", bytes: vec![] }];
    let alien = [Section { tag: *b"EVIL", bytes: vec![] }];
    let all = [
        with(0, 0),
        with(8, 9),
        with(10, 7),
        with(12, 200),
        with(40, 1),
        with(bytes.len() - 1, 99),
        read(&layout(Codec::Bincode, &no_weights)).unwrap_err().to_string(),
        read(&layout(Codec::Bincode, &twice)).unwrap_err().to_string(),
        read(&layout(Codec::Bincode, &alien)).unwrap_err().to_string(),
        read(&layout(Codec::Bincode, &[Section { tag: *b"PROG", bytes: vec![1, 2, 3] }])).unwrap_err().to_string(),
    ];
    insta::assert_snapshot!(all.join("\n"));
}
