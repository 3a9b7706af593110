//! The pretty forms of `reduce` and `while`, which name the values of their regions in their own ways.

use super::Reader;
use super::error::{MISMATCH, Step, problem};
use super::op::{Draft, Param};
use super::pretty::Types;
use crate::import::stablehlo::module::{Block, ModuleType, ModuleValue, Operation, Place};

impl<'a> Reader<'a> {
    /// `(%a init: %b), (%c init: %d) applies stablehlo.add across dimensions = [1] {…} : (…) -> …`, or without `applies` and with
    /// `reducer(%x: T, %y: T) (…) {…}` behind the types.
    pub(super) fn reduce(&mut self, op: &mut Draft) -> Step<()> {
        let mut inits = Vec::new();
        loop {
            self.at.expect("(")?;
            op.operands.push(self.operand()?);
            self.at.expect("init")?;
            self.at.expect(":")?;
            inits.push(self.operand()?);
            self.at.expect(")")?;
            if !self.at.eat_byte(b',') {
                break;
            }
        }
        op.operands.append(&mut inits);
        let applied = if self.at.eat_word("applies") { Some(self.at.name("an operation")?) } else { None };
        self.across(&mut op.attrs)?;
        self.any_attrs(op)?;
        self.types_of(op, Types::Same)?;
        let region = match applied {
            Some(name) => self.applied(op, name)?,
            None => self.reducer(op)?,
        };
        op.regions.push(region);
        Ok(())
    }

    /// The region that applies one operation.
    fn applied(&mut self, op: &Draft, name: &str) -> Step<Block> {
        let (&[_, init], false) = (&op.operands[..], op.results.len() != 1) else {
            return Err(problem(self.at.text, op.start, MISMATCH, "`applies` reduces one tensor", ""));
        };
        let ty = self.types[init.index()].clone();
        let place = Place(u32::try_from(self.places.len()).unwrap_or(u32::MAX));
        let [left, right, result] = [(); 3].map(|()| {
            self.types.push(ty.clone());
            ModuleValue::new(self.types.len() - 1)
        });
        self.operations += 2;
        let bare = |name: &str, operands, results| Operation {
            name: name.to_string(),
            operands,
            results,
            attrs: Default::default(),
            regions: Vec::new(),
            place,
        };
        let ops = vec![bare(name, vec![left, right], vec![result]), bare("stablehlo.return", vec![result], Vec::new())];
        Ok(Block { params: vec![left, right], ops })
    }

    /// `reducer(%a: T, %b: T) (%c: U, %d: U) {…}`: pairs, each with a value of the left and one of the right side.
    fn reducer(&mut self, op: &Draft) -> Step<Block> {
        self.at.expect("reducer")?;
        let (mut left, mut right): (Vec<Param<'a>>, Vec<Param<'a>>) = (Vec::new(), Vec::new());
        while self.at.peek() == b'(' {
            let mut pair = self.typed_names()?.into_iter();
            let (Some(first), Some(second), None) = (pair.next(), pair.next(), pair.next()) else {
                return Err(problem(self.at.text, op.start, MISMATCH, "a reducer has two values for each tensor", ""));
            };
            left.push(first);
            right.push(second);
        }
        if left.len() * 2 != op.operands.len() {
            let what = format!("{} tensors are reduced, and the reducer has values for {}", op.operands.len() / 2, left.len());
            return Err(problem(self.at.text, op.start, MISMATCH, what, ""));
        }
        left.append(&mut right);
        self.region(left)
    }

    /// `(%x = %a, %y = %b) : T, U attributes {…} cond {…} do {…}`
    pub(super) fn while_loop(&mut self, op: &mut Draft) -> Step<()> {
        let names = self.list_of("(", ")", |r| {
            r.at.expect("%")?;
            let name = r.at.suffix()?;
            r.at.expect("=")?;
            let value = r.operand()?;
            r.param_loc()?;
            Ok((name, value))
        })?;
        op.operands = names.iter().map(|(_, v)| *v).collect();
        self.types_of(op, Types::Each)?;
        if self.at.eat_word("attributes") {
            self.more_attrs(&mut op.attrs)?;
        }
        let types: Vec<ModuleType> = op.operands.iter().map(|v| self.types[v.index()].clone()).collect();
        for word in ["cond", "do"] {
            self.at.expect(word)?;
            let params = names.iter().zip(&types).map(|((name, _), ty)| (*name, ty.clone())).collect();
            op.regions.push(self.region(params)?);
        }
        Ok(())
    }
}
