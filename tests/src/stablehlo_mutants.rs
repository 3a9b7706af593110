//! Damaged StableHLO texts: tokens that are swapped, dropped, doubled, or say absurd things.
//!
//! Bytes that are changed blindly seldom get past the first token of a text; this damage reaches the converter.

use crate::damage::Random;

/// Words that stand in for others.
const WORDS: [&str; 24] = [
    "stablehlo.add",
    "stablehlo.while",
    "stablehlo.gather",
    "stablehlo.constant",
    "stablehlo.custom_call",
    "stablehlo.return",
    "func.call",
    "return",
    "module",
    "func.func",
    "@main",
    "%arg0",
    "%0",
    "%nothing",
    "tensor<f32>",
    "tensor<2xcomplex<f32>>",
    "tensor<?xf32>",
    "tensor<4xi4>",
    "dense<>",
    "dense_resource<x>",
    "#loc",
    "true",
    "unit",
    "!stablehlo.token",
];

/// Changes one to four tokens or lines of a text.
pub fn text_damage(original: &str, random: &mut Random) -> String {
    let mut text = original.to_string();
    for _ in 0..1 + random.below(4) {
        text = match random.below(8) {
            0 | 1 => change_number(&text, random),
            2 => change_lines(&text, random),
            _ => change_token(&text, random),
        };
    }
    text
}

/// Whether characters belong to one token.
fn together(a: char, b: char) -> bool {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '%' | '@' | '#' | '!');
    word(a) && word(b) || a.is_whitespace() && b.is_whitespace()
}

fn tokens(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut last = None;
    for c in text.chars() {
        match (last, out.last_mut()) {
            (Some(before), Some(token)) if together(before, c) => token.push(c),
            _ => out.push(c.to_string()),
        }
        last = Some(c);
    }
    out
}

fn change_token(text: &str, random: &mut Random) -> String {
    let mut all = tokens(text);
    if all.is_empty() {
        return String::new();
    }
    let (at, other) = (random.below(all.len()), random.below(all.len()));
    match random.below(6) {
        0 => drop(all.remove(at)),
        1 => all.swap(at, other),
        2 => all[at] = all[other].clone(),
        3 => all.insert(at, all[other].clone()),
        4 => {
            all.insert(at, ["{", "}", "(", ")", "<", ">", "[", "]", "\"", "\\", ",", ":", "//", "\u{202e}", "\0"][random.below(15)].into())
        }
        _ => all[at] = WORDS[random.below(WORDS.len())].into(),
    }
    all.concat()
}

fn change_number(text: &str, random: &mut Random) -> String {
    let bytes = text.as_bytes();
    let starts: Vec<usize> =
        (0..bytes.len()).filter(|i| bytes[*i].is_ascii_digit() && (*i == 0 || !bytes[*i - 1].is_ascii_alphanumeric())).collect();
    let Some(start) = starts.get(random.below(starts.len())).copied() else { return text.to_string() };
    let end = (start..bytes.len()).find(|i| !bytes[*i].is_ascii_digit()).unwrap_or(bytes.len());
    format!("{}{}{}", &text[..start], random.absurd(), &text[end..])
}

fn change_lines(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    let (at, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(3) {
        0 => drop(lines.remove(at)),
        1 => lines.swap(at, other),
        _ => lines.insert(at, lines[other]),
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_damage() {
        let text = "func.func @f(%a: tensor<2x3xf32>) {\n  return %a : tensor<2x3xf32>\n}\n";
        assert_eq!(tokens(text).concat(), text);
        let damaged = |seed| text_damage(text, &mut Random::new(seed));
        assert!((0..50).all(|seed| damaged(seed) == damaged(seed)));
        assert!((0..50).filter(|seed| damaged(*seed) != text).count() > 40);
    }
}
