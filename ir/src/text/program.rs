//! Fused programs inline: `{in f32, f32; s2 = add s0, s1; out s2}`.
//!
//! `in` declares the operands and loads them into the first slots. A program that does not begin by loading all its operands in order
//! is written with `operands f32, f32;` and explicit `s0 = in 1;` instead.

use super::error::{TextError, TextErrorKind};
use super::lex::{Cursor, Token};
use super::literal::{float, parse_float};
use crate::fused::{Expr, FusedProgram, Slot};
use crate::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use crate::types::DType;
use std::fmt::Write;

fn constant(dtype: DType, bits: u64) -> String {
    match dtype {
        d if d.is_float() => float(f64::from_bits(bits), true),
        DType::U64 => bits.to_string(),
        _ => (bits as i64).to_string(),
    }
}

fn instruction(expr: &Expr) -> String {
    match *expr {
        Expr::Input(k) => format!("in {k}"),
        Expr::Const(d, bits) => format!("const {d} {}", constant(d, bits)),
        Expr::Index(d, dim) => format!("index {d} {dim}"),
        Expr::Unary(f, a) => format!("{} s{a}", f.name()),
        Expr::Binary(f, a, b) => format!("{} s{a}, s{b}", f.name()),
        Expr::Compare(f, a, b) => format!("{} s{a}, s{b}", f.name()),
        Expr::Select(c, a, b) => format!("select s{c}, s{a}, s{b}"),
        Expr::Convert(d, a) => format!("convert {d} s{a}"),
        Expr::Bitcast(d, a) => format!("bitcast {d} s{a}"),
        Expr::Reduce(m, a) => format!("reduce {} s{a}", m.name()),
    }
}

/// A program in braces.
pub(crate) fn print(program: &FusedProgram) -> String {
    let n = program.inputs.len();
    let loads = program.body.len() >= n && program.body[..n].iter().enumerate().all(|(k, e)| *e == Expr::Input(k as u32));
    let inputs: Vec<&str> = program.inputs.iter().map(|d| d.name()).collect();
    let mut out = format!("{{{}", if loads { "in" } else { "operands" });
    for (i, name) in inputs.iter().enumerate() {
        let _ = write!(out, "{} {name}", if i > 0 { "," } else { "" });
    }
    for (slot, expr) in program.body.iter().enumerate().skip(if loads { n } else { 0 }) {
        let _ = write!(out, "; s{slot} = {}", instruction(expr));
    }
    out.push_str("; out");
    for (i, slot) in program.outputs.iter().enumerate() {
        let _ = write!(out, "{} s{slot}", if i > 0 { "," } else { "" });
    }
    out.push('}');
    out
}

fn dtype(c: &mut Cursor<'_>) -> Result<DType, TextError> {
    let w = c.word("an element type")?;
    DType::from_name(w).ok_or_else(|| c.unexpected("an element type", Token::Word(w)))
}

fn slot(c: &mut Cursor<'_>) -> Result<Slot, TextError> {
    let w = c.word("a slot such as `s2`")?;
    let number = w.strip_prefix('s').and_then(|n| n.parse().ok());
    number.ok_or_else(|| c.unexpected("a slot such as `s2`", Token::Word(w)))
}

fn parse_constant(c: &mut Cursor<'_>) -> Result<Expr, TextError> {
    let d = dtype(c)?;
    let (Token::Number(s) | Token::Word(s)) = c.next()? else {
        return Err(c.error(TextErrorKind::Token { why: "a constant is a number".to_string() }));
    };
    let bits = if d.is_float() {
        parse_float(s).map(f64::to_bits)
    } else {
        s.parse::<i64>().ok().map(|v| v as u64).or_else(|| s.parse::<u64>().ok())
    };
    bits.map(|b| Expr::Const(d, b)).ok_or_else(|| c.unexpected(format!("a number of type {d}"), Token::Number(s)))
}

fn parse_instruction(c: &mut Cursor<'_>) -> Result<Expr, TextError> {
    let name = c.word("an instruction")?;
    let pair = |c: &mut Cursor<'_>| -> Result<(Slot, Slot), TextError> {
        let a = slot(c)?;
        c.expect(",")?;
        Ok((a, slot(c)?))
    };
    Ok(match name {
        "in" => Expr::Input(c.integer("an operand number")?),
        "const" => parse_constant(c)?,
        "index" => {
            let d = dtype(c)?;
            Expr::Index(d, c.integer("a loop dimension")?)
        }
        "select" => {
            let cond = slot(c)?;
            c.expect(",")?;
            let (a, b) = pair(c)?;
            Expr::Select(cond, a, b)
        }
        "convert" => {
            let d = dtype(c)?;
            Expr::Convert(d, slot(c)?)
        }
        "bitcast" => {
            let d = dtype(c)?;
            Expr::Bitcast(d, slot(c)?)
        }
        "reduce" => {
            let w = c.word("a combiner")?;
            let m = Monoid::from_name(w).ok_or_else(|| c.unexpected("a combiner such as `sum`", Token::Word(w)))?;
            Expr::Reduce(m, slot(c)?)
        }
        _ => {
            if let Some(f) = UnaryFn::from_name(name) {
                Expr::Unary(f, slot(c)?)
            } else if let Some(f) = BinaryFn::from_name(name) {
                let (a, b) = pair(c)?;
                Expr::Binary(f, a, b)
            } else if let Some(f) = CompareFn::from_name(name) {
                let (a, b) = pair(c)?;
                Expr::Compare(f, a, b)
            } else {
                return Err(c.unexpected("an instruction such as `add s0, s1`", Token::Word(name)));
            }
        }
    })
}

/// Reads a program after its `{`.
pub(crate) fn parse(c: &mut Cursor<'_>) -> Result<FusedProgram, TextError> {
    c.semicolons = true;
    let mut program = FusedProgram::default();
    let loads = match c.next()? {
        Token::Word("in") => true,
        Token::Word("operands") => false,
        other => return Err(c.unexpected("`in` or `operands`", other)),
    };
    while c.peek()? != Token::Punct(";") {
        if !program.inputs.is_empty() {
            c.expect(",")?;
        }
        program.inputs.push(dtype(c)?);
        if loads {
            program.body.push(Expr::Input(program.inputs.len() as u32 - 1));
        }
    }
    loop {
        c.expect(";")?;
        if c.eat_word("out")? {
            break;
        }
        let s = slot(c)?;
        if s as usize != program.body.len() {
            return Err(c.unexpected(format!("slot `s{}`", program.body.len()), Token::Word(&format!("s{s}"))));
        }
        c.expect("=")?;
        let expr = parse_instruction(c)?;
        program.body.push(expr);
    }
    while c.peek()? != Token::Punct("}") {
        if !program.outputs.is_empty() {
            c.expect(",")?;
        }
        program.outputs.push(slot(c)?);
    }
    c.expect("}")?;
    c.semicolons = false;
    program.types().map_err(|e| c.error(e))?;
    Ok(program)
}
