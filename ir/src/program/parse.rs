//! Reading the text form of programs.

use super::form::{Field, Form, only_reads};
use super::{Channel, ChannelId, Claim, ClaimId, DieCode, HostTensor, HostUse, Instr, Program, Region, Replicas, StateShard, StreamId};
use crate::axes::Box;
use crate::graph::ValueId;
use crate::step::{TrainStep, step_from};
use crate::target::{Coord, DieId, Direction, LinkId, Target};
use crate::text::lex::Token;
use crate::text::parse::Parser;
use crate::text::{TextError, TextErrorKind};
use crate::types::{DType, Dims};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Streams and tables may not be longer than this.
const MAX_IDS: u64 = 1 << 26;

impl std::str::FromStr for Program {
    type Err = TextError;
    fn from_str(text: &str) -> Result<Self, TextError> {
        parse_program(text)
    }
}

/// Reads the text form of one program. It is not checked; that is [`check`](crate::check::check)'s business.
pub fn parse_program(text: &str) -> Result<Program, TextError> {
    let mut p = Parser::new(text);
    p.cursor.keyword("program")?;
    let name = p.cursor.quoted("the name in quotes")?;
    p.cursor.keyword("target")?;
    let target = target(&mut p)?;
    let step = step_from(&mut p)?;
    let mut reader = Reader { streams: BTreeMap::new(), of_die: BTreeMap::new(), program: empty(name, target, step) };
    loop {
        match p.cursor.next()? {
            Token::Word(word) => reader.statement(&mut p, word)?,
            Token::End => break,
            other => return Err(p.cursor.unexpected("a statement such as `die`, `claim0` or `channel`", other)),
        }
    }
    for (i, (id, stream)) in std::mem::take(&mut reader.streams).into_iter().enumerate() {
        if id as usize != i {
            return Err(p.cursor.error(misuse(format!("stream s{i} is nowhere"))));
        }
        reader.program.streams.push(stream);
    }
    Ok(reader.program)
}

fn misuse(why: impl Into<String>) -> TextErrorKind {
    TextErrorKind::Token { why: why.into() }
}

fn empty(name: String, target: Target, step: TrainStep) -> Program {
    let state = vec![Vec::new(); step.state.len()];
    let (dies, streams, channels, host) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    Program {
        name,
        target,
        step,
        dies,
        streams,
        channels,
        host,
        state,
        fused: Vec::new(),
        literals: Vec::new(),
        claims: Vec::new(),
        replicas: None,
    }
}

fn target(p: &mut Parser<'_>) -> Result<Target, TextError> {
    if !p.cursor.eat("{")? {
        let name = p.cursor.quoted("a target's name in quotes, or `{` and its lines")?;
        return Target::builtin(&name).map_err(|e| p.cursor.error(misuse(e.to_string())));
    }
    let mut toml = String::new();
    while !p.cursor.eat("}")? {
        toml.push_str(&p.cursor.quoted("a line of the target file in quotes")?);
        toml.push('\n');
    }
    Target::from_toml(&toml).map_err(|e| p.cursor.error(misuse(e.to_string())))
}

/// The program so far, and its streams by id.
struct Reader {
    program: Program,
    streams: BTreeMap<u32, Vec<Instr>>,
    of_die: BTreeMap<DieId, StreamId>,
}

/// The number after a prefix, as in `ch3`.
fn numbered(p: &Parser<'_>, word: &str, prefix: &str) -> Result<u32, TextError> {
    let number = word.strip_prefix(prefix).and_then(|n| n.parse().ok());
    number.ok_or_else(|| p.cursor.error(misuse(format!("expected a name such as `{prefix}0`, found `{word}`"))))
}

fn id(p: &mut Parser<'_>, prefix: &str) -> Result<u32, TextError> {
    let word = p.cursor.word("an id")?;
    numbered(p, word, prefix)
}

/// The id of a table's next entry.
fn next_id(p: &mut Parser<'_>, prefix: &str, have: usize) -> Result<(), TextError> {
    match id(p, prefix)? as usize == have {
        true => Ok(()),
        false => Err(p.cursor.error(misuse(format!("the next one is `{prefix}{have}`")))),
    }
}

/// `0..4` is one number token; so is `7`.
fn range(p: &Parser<'_>, text: &str) -> Result<(u64, u64), TextError> {
    let parsed = match text.split_once("..") {
        Some((a, b)) => a.parse().ok().zip(b.parse().ok()),
        None => None,
    };
    parsed.ok_or_else(|| p.cursor.error(misuse(format!("expected a range such as `0..4`, found `{text}`"))))
}

fn ranges(p: &mut Parser<'_>) -> Result<Vec<Range<usize>>, TextError> {
    let mut out = Vec::new();
    p.cursor.expect("[")?;
    while !p.cursor.eat("]")? {
        if !out.is_empty() {
            p.cursor.expect(",")?;
        }
        match p.cursor.next()? {
            Token::Number(n) => {
                let (a, b) = range(p, n)?;
                out.push(a as usize..b as usize);
            }
            other => return Err(p.cursor.unexpected("a range such as `0..4`", other)),
        }
    }
    Ok(out)
}

fn integer(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(i128::from),
        None => text.parse().ok(),
    }
}

fn address(p: &mut Parser<'_>) -> Result<u64, TextError> {
    match p.cursor.next()? {
        Token::Number(n) => {
            let v = integer(n).and_then(|v| u64::try_from(v).ok());
            v.ok_or_else(|| p.cursor.unexpected("an address such as `0x1000`", Token::Number(n)))
        }
        other => Err(p.cursor.unexpected("an address such as `0x1000`", other)),
    }
}

fn region(p: &mut Parser<'_>) -> Result<Region, TextError> {
    let offset = address(p)?;
    let word = p.cursor.word("an element type")?;
    let dtype = DType::from_name(word).ok_or_else(|| p.cursor.unexpected("an element type", Token::Word(word)))?;
    let mut dims = Dims::new();
    p.cursor.expect("[")?;
    while !p.cursor.eat("]")? {
        if !dims.is_empty() {
            p.cursor.expect(",")?;
        }
        dims.push(p.cursor.integer("an extent")?);
    }
    let mut strides: SmallVec<[i64; 6]> = SmallVec::new();
    if p.cursor.eat("{")? {
        while !p.cursor.eat("}")? {
            if !strides.is_empty() {
                p.cursor.expect(",")?;
            }
            strides.push(p.cursor.integer("a stride")?);
        }
    } else {
        let fits = dims.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1))).is_some_and(|n| n < 1 << 48);
        if !fits {
            return Err(p.cursor.error(TextErrorKind::Limit { what: "the region has too many elements", limit: 1 << 48 }));
        }
        strides = crate::types::row_major_strides(&dims).into_iter().map(|s| s as i64).collect();
    }
    Ok(Region { offset, dtype, dims, strides })
}

fn coord(p: &mut Parser<'_>, target: &Target) -> Result<DieId, TextError> {
    p.cursor.expect("(")?;
    let row: u32 = p.cursor.integer("a row")?;
    p.cursor.expect(",")?;
    let col: u32 = p.cursor.integer("a column")?;
    p.cursor.expect(")")?;
    let die = row.checked_mul(target.mesh.shape.cols).and_then(|d| d.checked_add(col));
    match die.filter(|_| col < target.mesh.shape.cols) {
        Some(d) => Ok(DieId(d)),
        None => Err(p.cursor.error(misuse(format!("{} is not on the mesh", Coord::new(row, col))))),
    }
}

fn link(p: &mut Parser<'_>, target: &Target) -> Result<LinkId, TextError> {
    let die = coord(p, target)?;
    p.cursor.expect(":")?;
    let word = p.cursor.word("a side: N, E, S or W")?;
    let side = Direction::ALL.into_iter().find(|d| d.to_string() == word);
    let link = side.and_then(|s| die.0.checked_mul(4)?.checked_add(s as u32));
    link.map(LinkId).ok_or_else(|| p.cursor.unexpected("a side: N, E, S or W", Token::Word(word)))
}

fn channels(p: &mut Parser<'_>) -> Result<Vec<ChannelId>, TextError> {
    let mut out = Vec::new();
    p.cursor.expect("[")?;
    while !p.cursor.eat("]")? {
        if !out.is_empty() {
            p.cursor.expect(",")?;
        }
        out.push(ChannelId(id(p, "ch")?));
    }
    Ok(out)
}

fn claim_ids(p: &mut Parser<'_>) -> Result<Vec<ClaimId>, TextError> {
    let mut out = Vec::new();
    p.cursor.expect("[")?;
    while !p.cursor.eat("]")? {
        if !out.is_empty() {
            p.cursor.expect(",")?;
        }
        let Token::Number(n) = p.cursor.next()? else { return Err(p.cursor.error(misuse("claims are numbers and ranges"))) };
        let (a, b) = match n.parse::<u32>() {
            Ok(one) => (u64::from(one), u64::from(one) + 1),
            Err(_) => range(p, n)?,
        };
        if b.saturating_sub(a) + out.len() as u64 > MAX_IDS || b > u64::from(u32::MAX) {
            return Err(p.cursor.error(TextErrorKind::Limit { what: "too many claims", limit: MAX_IDS as usize }));
        }
        out.extend((a..b).map(|c| ClaimId(c as u32)));
    }
    Ok(out)
}

fn field(p: &mut Parser<'_>, depth: usize) -> Result<Field, TextError> {
    let want = "a number, a word or a list";
    Ok(match p.cursor.next()? {
        Token::Number(n) => match (integer(n), n.strip_prefix("0x").and_then(|h| u64::from_str_radix(h, 16).ok())) {
            (_, Some(h)) => Field::Hex(h),
            (Some(v), None) => Field::Int(v),
            _ => {
                let (a, b) = range(p, n)?;
                Field::Range(a as usize, b as usize)
            }
        },
        Token::Word(w) => Field::Word(w.to_string()),
        Token::Punct("[") if depth < 3 => {
            let mut items = Vec::new();
            while !p.cursor.eat("]")? {
                if !items.is_empty() {
                    p.cursor.expect(",")?;
                }
                items.push(field(p, depth + 1)?);
            }
            Field::List(items)
        }
        other => return Err(p.cursor.unexpected(want, other)),
    })
}

fn regions(p: &mut Parser<'_>) -> Result<Vec<Region>, TextError> {
    let mut out = Vec::new();
    if matches!(p.cursor.peek()?, Token::Number(n) if n.starts_with("0x")) {
        out.push(region(p)?);
        while p.cursor.eat(",")? {
            out.push(region(p)?);
        }
    }
    Ok(out)
}

/// The instructions after `{`.
fn stream(p: &mut Parser<'_>) -> Result<Vec<Instr>, TextError> {
    let mut out: Vec<Instr> = Vec::new();
    while !p.cursor.eat("}")? {
        let index: usize = p.cursor.integer("the number of the instruction, or `}`")?;
        if index != out.len() {
            return Err(p.cursor.error(misuse(format!("the next instruction is number {}", out.len()))));
        }
        let name = p.cursor.word("an instruction")?.to_string();
        let mark = p.cursor.mark();
        let first = regions(p)?;
        let (outs, ins) = match (only_reads(&name), p.cursor.eat("=")?) {
            (true, false) => (Vec::new(), first),
            (_, true) => (first, regions(p)?),
            (false, false) => (first, Vec::new()),
        };
        let mut fields = Vec::new();
        while let Token::Word(key) = p.cursor.peek()? {
            p.cursor.next()?;
            p.cursor.expect("=")?;
            fields.push((key.to_string(), field(p, 0)?));
        }
        let form = Form { name, outs, ins, fields };
        out.push(form.build().map_err(|why| p.cursor.error_at(mark, misuse(why)))?);
    }
    Ok(out)
}

impl Reader {
    fn statement(&mut self, p: &mut Parser<'_>, word: &str) -> Result<(), TextError> {
        let program = &mut self.program;
        match word {
            "channel" => {
                next_id(p, "ch", program.channels.len())?;
                let source = coord(p, &program.target)?;
                p.cursor.expect("->")?;
                let dest = coord(p, &program.target)?;
                p.cursor.keyword("depth")?;
                let depth = p.cursor.integer("a number of messages")?;
                p.cursor.keyword("via")?;
                let mut route = Vec::new();
                while p.cursor.peek()? == Token::Punct("(") {
                    route.push(link(p, &program.target)?);
                }
                program.channels.push(Channel { source, dest, route, depth });
            }
            "host" => {
                next_id(p, "h", program.host.len())?;
                let name = p.cursor.quoted("the name in quotes")?;
                let ty = p.tensor_type()?;
                let usage = match p.cursor.word("`input`, `output` or `state`")? {
                    "input" => HostUse::Input(p.cursor.integer("a position")?),
                    "output" => HostUse::Output(p.cursor.integer("a position")?),
                    "state" => HostUse::State(p.cursor.integer("the number of a state pair")?),
                    other => return Err(p.cursor.unexpected("`input`, `output` or `state`", Token::Word(other))),
                };
                program.host.push(HostTensor { name, ty, usage });
            }
            "replicas" => {
                let rows = p.cursor.integer("rows of the grid of replicas")?;
                p.cursor.keyword("by")?;
                let cols = p.cursor.integer("columns of the grid of replicas")?;
                p.cursor.keyword("on")?;
                let machine = target(p)?;
                let replicas = Replicas { machine, rows, cols, inputs: Vec::new(), outputs: Vec::new() };
                program.replicas = Some(std::boxed::Box::new(replicas));
            }
            "sliced" => {
                let Some(replicas) = &mut program.replicas else {
                    return Err(p.cursor.error(misuse("`replicas` comes before what is sliced")));
                };
                let list = match p.cursor.word("`input` or `output`")? {
                    "input" => &mut replicas.inputs,
                    "output" => &mut replicas.outputs,
                    other => return Err(p.cursor.unexpected("`input` or `output`", Token::Word(other))),
                };
                let position = p.cursor.integer("a position")?;
                p.cursor.keyword("along")?;
                list.push((position, p.cursor.integer("a dimension")?));
            }
            "state" => {
                let pair: usize = p.cursor.integer("the number of a state pair")?;
                p.cursor.keyword("on")?;
                let die = p.cursor.integer("the position of a die below")?;
                let shard = StateShard { die, part: Box::from_vec(ranges(p)?), region: region(p)? };
                match program.state.get_mut(pair) {
                    Some(shards) => shards.push(shard),
                    None => return Err(p.cursor.error(misuse(format!("the step has no state pair {pair}")))),
                }
            }
            "fused" => {
                next_id(p, "f", program.fused.len())?;
                p.cursor.expect("{")?;
                program.fused.push(Arc::new(crate::text::program::parse(&mut p.cursor)?));
            }
            "literal" => {
                next_id(p, "k", program.literals.len())?;
                p.cursor.keyword("dense")?;
                program.literals.push(crate::text::literal::parse_dense(p)?);
            }
            "stream" => {
                let s = id(p, "s")?;
                p.cursor.expect("{")?;
                self.define(p, s)?;
            }
            "die" => self.die(p)?,
            _ if word.starts_with("claim") => {
                if numbered(p, word, "claim")? as usize != program.claims.len() {
                    return Err(p.cursor.error(misuse(format!("the next one is `claim{}`", program.claims.len()))));
                }
                program.claims.push(claim(p)?);
            }
            _ => return Err(p.cursor.unexpected("a statement such as `die`, `claim0` or `channel`", Token::Word(word))),
        }
        Ok(())
    }

    fn define(&mut self, p: &mut Parser<'_>, s: u32) -> Result<(), TextError> {
        if self.streams.contains_key(&s) {
            return Err(p.cursor.error(TextErrorKind::Twice { what: format!("stream s{s}") }));
        }
        let instrs = stream(p)?;
        self.streams.insert(s, instrs);
        Ok(())
    }

    fn die(&mut self, p: &mut Parser<'_>) -> Result<(), TextError> {
        let die = coord(p, &self.program.target)?;
        let stream = match p.cursor.word("`stream` or `same`")? {
            "stream" => StreamId(id(p, "s")?),
            "same" => {
                p.cursor.keyword("as")?;
                let other = coord(p, &self.program.target)?;
                let known = self.of_die.get(&other).copied();
                known.ok_or_else(|| p.cursor.error(misuse("that die has no code above")))?
            }
            other => return Err(p.cursor.unexpected("`stream` or `same`", Token::Word(other))),
        };
        self.of_die.entry(die).or_insert(stream);
        p.cursor.keyword("sram")?;
        let sram_used = p.cursor.integer("a number of bytes")?;
        p.cursor.keyword("out")?;
        let out_ports = channels(p)?;
        p.cursor.keyword("in")?;
        let in_ports = channels(p)?;
        p.cursor.keyword("claims")?;
        let claims = claim_ids(p)?;
        self.program.dies.push(DieCode { die, stream, claims, out_ports, in_ports, sram_used });
        if p.cursor.eat("{")? {
            self.define(p, stream.0)?;
        }
        Ok(())
    }
}

fn claim(p: &mut Parser<'_>) -> Result<Claim, TextError> {
    Ok(match p.cursor.word("`compute`, `move`, `loop` or `control`")? {
        "control" => Claim::Control,
        "loop" => {
            let v = p.cursor.value()?;
            let end = v.parse().map(ValueId).map_err(|_| p.cursor.unexpected("a value such as `%2`", Token::Value(v)))?;
            let mut parts = Vec::new();
            while let Token::Number(n) = p.cursor.peek()? {
                p.cursor.next()?;
                let slot = n.parse().map_err(|_| p.cursor.unexpected("the number of a slot", Token::Number(n)))?;
                parts.push((slot, Box::from_vec(ranges(p)?)));
            }
            Claim::Loop { end, parts }
        }
        "compute" => {
            let v = p.cursor.value()?;
            let node = v.parse().map(ValueId).map_err(|_| p.cursor.unexpected("a value such as `%2`", Token::Value(v)))?;
            Claim::Compute { node, ranges: ranges(p)? }
        }
        "move" => {
            let v = p.cursor.value()?;
            let pair = v.split_once('.').and_then(|(v, c)| v.parse().ok().zip(c.parse().ok()));
            let (value, component) = pair.ok_or_else(|| p.cursor.unexpected("a value and component such as `%2.0`", Token::Value(v)))?;
            Claim::Move { value: ValueId(value), component, part: Box::from_vec(ranges(p)?) }
        }
        other => return Err(p.cursor.unexpected("`compute`, `move`, `loop` or `control`", Token::Word(other))),
    })
}
