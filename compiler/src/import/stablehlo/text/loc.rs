//! Source locations: from `loc(…)` and `#locN` to the text of a place.
//!
//! Of everything that a location tells, the innermost line of a source file is kept; an operation without one gets its own line in
//! the text. Aliases may stand behind the module, so the texts are made when everything is read.

use super::Reader;
use super::error::{NAME, Step};
use crate::import::stablehlo::module::{ModuleAttr, Place};
use rustc_hash::FxHashMap;

/// A location as far as it matters.
#[derive(Clone, Debug)]
pub(super) enum Loc<'a> {
    Unknown,
    /// A file, as it stands between the quotes, and a line.
    File(&'a str, u64),
    Alias(&'a str),
    /// A name and what is inside.
    Named(&'a str, Box<Loc<'a>>),
    /// The first that has a file counts.
    First(Vec<Loc<'a>>),
}

/// Longest text of a place.
const LONGEST: usize = 160;

impl<'a> Reader<'a> {
    /// A new place at the cursor.
    pub(super) fn new_place(&mut self) -> Place {
        let line = self.at.line();
        self.places.push((line, None));
        Place(u32::try_from(self.places.len()).unwrap_or(u32::MAX))
    }

    /// `loc(…)` behind an operation, if it is there.
    pub(super) fn trailing(&mut self, place: Place) -> Step<()> {
        if self.at.peek() == b'l' && self.at.sees("loc(") {
            let loc = self.location()?;
            if let Some(slot) = self.places.get_mut(place.0 as usize - 1) {
                slot.1 = Some(loc);
            }
        }
        Ok(())
    }

    /// `loc(…)` behind a parameter, if it is there.
    pub(super) fn param_loc(&mut self) -> Step<Option<Loc<'a>>> {
        if self.at.peek() == b'l' && self.at.sees("loc(") { Ok(Some(self.location()?)) } else { Ok(None) }
    }

    /// `loc(…)`
    pub(super) fn location(&mut self) -> Step<Loc<'a>> {
        self.at.expect("loc")?;
        self.at.expect("(")?;
        let loc = self.inner()?;
        self.at.expect(")")?;
        Ok(loc)
    }

    fn inner(&mut self) -> Step<Loc<'a>> {
        self.at.enter()?;
        let loc = match self.at.peek() {
            b'#' => {
                self.at.pos += 1;
                Loc::Alias(self.at.suffix()?)
            }
            b'"' => self.file_or_name()?,
            _ => match self.at.name("a location")? {
                "unknown" => Loc::Unknown,
                "callsite" => {
                    self.at.expect("(")?;
                    let callee = self.inner()?;
                    self.at.expect("at")?;
                    let caller = self.inner()?;
                    self.at.expect(")")?;
                    Loc::First(vec![callee, caller])
                }
                "fused" => {
                    if self.at.peek() == b'<' {
                        self.at.balanced()?;
                    }
                    Loc::First(self.list_of("[", "]", Self::inner)?)
                }
                "loc" => {
                    self.at.expect("(")?;
                    let inner = self.inner()?;
                    self.at.expect(")")?;
                    inner
                }
                _ => return Err(self.at.expected("`unknown`, `callsite`, `fused`, a file or an alias")),
            },
        };
        self.at.leave();
        Ok(loc)
    }

    /// `"file":1:2`, `"file":1:2 to :3`, `"name"`, `"name"(inner)`
    fn file_or_name(&mut self) -> Step<Loc<'a>> {
        let text = self.at.raw_string()?;
        if self.at.eat_byte(b':') {
            let line = self.at.unsigned()?;
            self.at.expect(":")?;
            self.at.unsigned()?;
            if self.at.eat_word("to") {
                if self.at.peek() != b':' {
                    self.at.unsigned()?;
                }
                self.at.expect(":")?;
                self.at.unsigned()?;
            }
            return Ok(Loc::File(text, line as u64));
        }
        if !self.at.eat_byte(b'(') {
            return Ok(Loc::Named(text, Box::new(Loc::Unknown)));
        }
        let inner = self.inner()?;
        self.at.expect(")")?;
        Ok(Loc::Named(text, Box::new(inner)))
    }

    /// `#locN = …`, after the name.
    pub(super) fn loc_alias(&mut self, name: &'a str) -> Step<()> {
        let loc = self.location()?;
        if self.loc_aliases.insert(name, loc).is_some() {
            return Err(self.at.fault(NAME, format!("the alias `#{name}` is there twice"), ""));
        }
        Ok(())
    }

    /// Writes the texts of all places, and gives parameters the names that their locations tell.
    pub(super) fn finish_places(&mut self) {
        let mut files = Files { aliases: &self.loc_aliases, known: FxHashMap::default(), depth: 0 };
        let mut texts = Vec::with_capacity(self.places.len() + 1);
        texts.push(String::new());
        for (line, loc) in &self.places {
            texts.push(match loc.as_ref().and_then(|l| files.find(l)) {
                Some((file, line)) => {
                    let cut = file.char_indices().nth_back(LONGEST).map_or(0, |(i, _)| i);
                    format!("{}:{line}", &file[cut..])
                }
                None => format!("line {line}"),
            });
        }
        self.module.places = texts;
        for (function, param, loc) in &self.param_locs {
            let mut loc = loc;
            while let Loc::Alias(name) = loc {
                match self.loc_aliases.get(name) {
                    // An alias of an alias is never printed; following one step keeps this free of cycles.
                    Some(found @ Loc::Named(..)) => loc = found,
                    _ => break,
                }
            }
            let slot = self.module.functions.get_mut(function).and_then(|f| f.params.get_mut(*param));
            if let (Loc::Named(name, _), Some(slot)) = (loc, slot) {
                let name: String = name.chars().take(LONGEST).collect();
                slot.attrs.entry("loc".into()).or_insert(ModuleAttr::Text(name));
            }
        }
    }
}

/// Where aliases lead, each followed once.
struct Files<'r, 'a> {
    aliases: &'r FxHashMap<&'a str, Loc<'a>>,
    known: FxHashMap<&'a str, Option<(&'a str, u64)>>,
    depth: usize,
}

impl<'a> Files<'_, 'a> {
    fn find(&mut self, loc: &Loc<'a>) -> Option<(&'a str, u64)> {
        /// Chains of calls are some dozens deep; this bounds the stack, not the meaning.
        const DEEPEST: usize = 1000;
        if self.depth == DEEPEST {
            return None;
        }
        self.depth += 1;
        let found = self.step(loc);
        self.depth -= 1;
        found
    }

    fn step(&mut self, loc: &Loc<'a>) -> Option<(&'a str, u64)> {
        match loc {
            Loc::Unknown => None,
            Loc::File(file, line) => Some((file, *line)),
            Loc::Named(_, inner) => self.find(inner),
            Loc::First(all) => all.iter().find_map(|l| self.find(l)),
            Loc::Alias(name) => {
                if let Some(known) = self.known.get(name) {
                    return *known;
                }
                // A cycle finds nothing.
                self.known.insert(name, None);
                let found = self.aliases.get(name).and_then(|l| self.find(l));
                self.known.insert(name, found);
                found
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use crate::import::stablehlo::module::Limits;

    fn place(loc: &str, aliases: &str) -> String {
        let text = format!("{aliases}\nfunc.func @main() {{\n  return loc({loc})\n}}\n#late = loc(\"late.py\":7:1)");
        let module = read(text.as_bytes(), &Limits::default()).unwrap();
        module.place(module.functions["main"].body.ops[0].place).to_string()
    }

    #[test]
    fn the_innermost_file_counts() {
        assert_eq!(place("\"a.py\":30:4", ""), "a.py:30");
        assert_eq!(place("\"a.py\":30:4 to :9", ""), "a.py:30");
        assert_eq!(place("\"a.py\":30:4 to 31:9", ""), "a.py:30");
        assert_eq!(place("callsite(\"f\"(\"a.py\":1:1) at \"b.py\":2:2)", ""), "a.py:1");
        assert_eq!(place("callsite(\"f\" at \"b.py\":2:2)", ""), "b.py:2");
        assert_eq!(place("fused<{a = 1}>[unknown, \"b.py\":2:2]", ""), "b.py:2");
        assert_eq!(place("#late", ""), "late.py:7");
        assert_eq!(place("#a", "#a = loc(\"x\"(#b))  #b = loc(callsite(#late at #a))"), "late.py:7");
    }

    #[test]
    fn without_a_file_the_own_line_counts() {
        assert_eq!(place("unknown", ""), "line 3");
        assert_eq!(place("\"name\"", ""), "line 3");
        assert_eq!(place("#nowhere", ""), "line 3");
        assert_eq!(place("#a", "#a = loc(#b) #b = loc(#a)"), "line 3");
    }

    #[test]
    fn long_chains_and_names_are_bounded() {
        let chain: String = (0..20_000).map(|i| format!("#c{i} = loc(#c{})\n", i + 1)).collect();
        assert!(place("#c0", &chain).starts_with("line "));
        assert!(place(&format!("\"{}\":1:1", "é".repeat(5000)), "").len() < 1000);
    }

    #[test]
    fn parameters_keep_their_names() {
        let text = "#p = loc(\"params['b']\")\nfunc.func @main(%a: tensor<f32> loc(\"x\"), %b: tensor<f32> {a} loc(#p)) { return }";
        let module = read(text.as_bytes(), &Limits::default()).unwrap();
        let names: Vec<String> = module.functions["main"].params.iter().map(|p| format!("{:?}", p.attrs["loc"])).collect();
        assert_eq!(names, ["Text(\"x\")", "Text(\"params['b']\")"]);
    }
}
