//! Modules, functions, meshes, aliases and resources: everything around the operations.

use super::Reader;
use super::attr::Attrs;
use super::error::{MISMATCH, NAME, STRUCTURE, Step, problem};
use super::loc::Loc;
use super::op::Draft;
use crate::import::stablehlo::module::{Block, Function, ModuleAttr, ModuleType, Place, Slot};
use rustc_hash::FxHashMap;

/// Parameters as a function lists them.
#[derive(Default)]
struct Head<'a> {
    names: Vec<(&'a str, usize)>,
    slots: Vec<Slot>,
    locs: Vec<(usize, Loc<'a>)>,
}

impl<'a> Reader<'a> {
    /// The whole file.
    pub(super) fn file(&mut self) -> Step<()> {
        let mut modules = 0;
        while !self.at.at_end() {
            let place = self.new_place();
            let start = self.at.pos;
            if self.at.eat_word("module") || self.at.eat_word("builtin.module") {
                modules += 1;
                self.module_form(place)?;
            } else if self.at.eat("\"builtin.module\"") {
                modules += 1;
                self.generic_module(place)?;
            } else {
                self.item(place)?;
            }
            if modules > 1 {
                return Err(problem(self.at.text, start, STRUCTURE, "a second module", "one module is read from a file"));
            }
        }
        if self.module.functions.is_empty() {
            return Err(self.at.fault(STRUCTURE, "there is no function", "a StableHLO module has at least one `func.func`"));
        }
        self.finish_places();
        Ok(())
    }

    /// `module @name attributes {…} {…}`, after the word.
    fn module_form(&mut self, place: Place) -> Step<()> {
        if self.at.peek() == b'@' {
            self.module.name = self.at.symbol()?;
        }
        if self.at.eat_word("attributes") {
            self.module.attrs = self.dictionary()?;
        }
        self.items_of_module()?;
        self.trailing(place)
    }

    /// `"builtin.module"() <{…}> ({…}) {…} : () -> ()`, after the name.
    fn generic_module(&mut self, place: Place) -> Step<()> {
        self.at.expect("(")?;
        self.at.expect(")")?;
        let mut op = Draft::default();
        self.properties(&mut op)?;
        self.at.expect("(")?;
        self.items_of_module()?;
        self.at.expect(")")?;
        self.more_attrs(&mut op.attrs)?;
        self.no_values()?;
        self.trailing(place)?;
        if let Some(ModuleAttr::Text(name) | ModuleAttr::Symbol(name)) = op.attrs.shift_remove("sym_name") {
            self.module.name = name;
        }
        self.module.attrs = op.attrs;
        Ok(())
    }

    /// `: () -> ()`
    fn no_values(&mut self) -> Step<()> {
        for part in [":", "(", ")", "->", "(", ")"] {
            self.at.expect(part)?;
        }
        Ok(())
    }

    fn items_of_module(&mut self) -> Step<()> {
        self.at.expect("{")?;
        if self.at.eat_byte(b'^') {
            self.at.suffix()?;
            self.at.expect(":")?;
        }
        while !self.at.eat_byte(b'}') {
            let place = self.new_place();
            self.item(place)?;
        }
        Ok(())
    }

    /// What may stand in a module: a function, a mesh, an alias.
    fn item(&mut self, place: Place) -> Step<()> {
        match self.at.peek() {
            b'#' | b'!' => self.alias(),
            b'{' if self.at.sees("{-#") => self.skip_resources(),
            b'"' if self.at.eat("\"func.func\"") => self.generic_function(place),
            b'"' if self.at.eat("\"sdy.mesh\"") => self.generic_mesh(place),
            _ if self.at.eat_word("func.func") || self.at.eat_word("func") => self.function(place),
            _ if self.at.eat_word("sdy.mesh") => {
                let name = self.at.symbol()?;
                self.at.expect("=")?;
                let axes = self.mesh_axes()?;
                let mut rest = Attrs::new();
                self.more_attrs(&mut rest)?;
                self.trailing(place)?;
                self.add_mesh(name, Some(&axes))
            }
            _ => Err(self.at.expected("`func.func`, `sdy.mesh` or an alias")),
        }
    }

    /// `#name = …` or `!name = …`
    fn alias(&mut self) -> Step<()> {
        let mark = self.at.byte();
        let start = self.at.pos;
        self.at.pos += 1;
        let name = self.at.suffix()?;
        self.at.expect("=")?;
        let twice = if mark == b'!' {
            let ty = self.ty()?;
            self.type_aliases.insert(name, ty).is_some()
        } else if self.at.sees("loc(") {
            return self.loc_alias(name);
        } else {
            let attr = self.attr()?;
            self.attr_aliases.insert(name, attr).is_some()
        };
        if twice {
            return Err(problem(self.at.text, start, NAME, format!("the alias `{name}` is there twice"), ""));
        }
        Ok(())
    }

    fn generic_mesh(&mut self, place: Place) -> Step<()> {
        let mut op = Draft::default();
        self.at.expect("(")?;
        self.at.expect(")")?;
        self.properties(&mut op)?;
        self.more_attrs(&mut op.attrs)?;
        self.no_values()?;
        self.trailing(place)?;
        let name = Self::text_of(op.attrs.get("sym_name")).unwrap_or_default().to_string();
        self.add_mesh(name, op.attrs.get("mesh"))
    }

    fn add_mesh(&mut self, name: String, axes: Option<&ModuleAttr>) -> Step<()> {
        let axes = match axes {
            Some(ModuleAttr::Fields(f)) => f
                .iter()
                .map(|(axis, size)| match size {
                    ModuleAttr::Int(n) => usize::try_from(*n).ok().filter(|n| *n > 0).map(|n| (axis.clone(), n)),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        let Some(axes) = axes else {
            return Err(self.at.fault(STRUCTURE, format!("the mesh `@{name}` has an axis without a size"), ""));
        };
        if self.module.meshes.insert(name.clone(), axes).is_some() {
            return Err(self.at.fault(NAME, format!("the mesh `@{name}` is there twice"), ""));
        }
        Ok(())
    }

    /// The text of a string, symbol or word.
    fn text_of(attr: Option<&ModuleAttr>) -> Option<&str> {
        match attr {
            Some(ModuleAttr::Text(t) | ModuleAttr::Symbol(t) | ModuleAttr::Word(t)) => Some(t),
            _ => None,
        }
    }

    /// `public @main(%a: T {…}) -> (U {…}) attributes {…} {…}`, after the word.
    fn function(&mut self, place: Place) -> Step<()> {
        let _ = self.at.eat_word("public") || self.at.eat_word("private") || self.at.eat_word("nested");
        self.at.skip();
        let start = self.at.pos;
        let name = self.at.symbol()?;
        self.open_function();
        let head = self.head()?;
        let mut results = Vec::new();
        if self.at.eat("->") {
            results = if self.at.peek() == b'(' {
                self.list_of("(", ")", Self::result)?
            } else {
                vec![Slot { ty: self.ty()?, attrs: Attrs::new() }]
            };
        }
        let mut op = Draft::default();
        if self.at.eat_word("attributes") {
            self.more_attrs(&mut op.attrs)?;
        }
        let mut body = Block::default();
        if self.at.peek() == b'{' && !self.at.sees("{-#") {
            if head.names.len() != head.slots.len() {
                return Err(problem(self.at.text, start, STRUCTURE, format!("the parameters of `@{name}` have no names"), ""));
            }
            let params = head.names.iter().zip(&head.slots).map(|((name, _), slot)| (*name, slot.ty.clone())).collect();
            body = self.region(params)?;
        } else {
            body.params = head.slots.iter().map(|slot| self.unnamed(&slot.ty)).collect();
        }
        self.trailing(place)?;
        for (index, loc) in head.locs {
            self.param_locs.push((name.clone(), index, loc));
        }
        self.close_function(start, Function { name, params: head.slots, results, types: Vec::new(), body, place })
    }

    fn unnamed(&mut self, ty: &ModuleType) -> crate::import::stablehlo::module::ModuleValue {
        self.types.push(ty.clone());
        crate::import::stablehlo::module::ModuleValue::new(self.types.len() - 1)
    }

    /// `(%a: T {…} loc(…), …)`; a declaration has types only.
    fn head(&mut self) -> Step<Head<'a>> {
        let mut head = Head::default();
        self.at.expect("(")?;
        if self.at.eat_byte(b')') {
            return Ok(head);
        }
        loop {
            let start = self.at.pos;
            if self.at.eat_byte(b'%') {
                head.names.push((self.at.suffix()?, start));
                self.at.expect(":")?;
            }
            let slot = self.result()?;
            if let Some(loc) = self.param_loc()? {
                head.locs.push((head.slots.len(), loc));
            }
            head.slots.push(slot);
            if !self.at.eat_byte(b',') {
                self.at.expect(")")?;
                return Ok(head);
            }
        }
    }

    /// `T {…}`
    fn result(&mut self) -> Step<Slot> {
        let mut slot = Slot { ty: self.ty()?, attrs: Attrs::new() };
        self.more_attrs(&mut slot.attrs)?;
        Ok(slot)
    }

    /// `"func.func"() <{…}> ({^bb0(…): …}) {…} : () -> ()`, after the name.
    fn generic_function(&mut self, place: Place) -> Step<()> {
        let start = self.at.pos;
        self.at.expect("(")?;
        self.at.expect(")")?;
        let mut op = Draft::default();
        self.properties(&mut op)?;
        self.open_function();
        self.at.expect("(")?;
        let mut body = self.region(Vec::new())?;
        self.at.expect(")")?;
        self.more_attrs(&mut op.attrs)?;
        self.no_values()?;
        self.trailing(place)?;
        let (inputs, results) = self.split_function_type(op.attrs.shift_remove("function_type"), start)?;
        let Some(name) = Self::text_of(op.attrs.get("sym_name")).map(str::to_string) else {
            return Err(problem(self.at.text, start, STRUCTURE, "a function has no `sym_name`", ""));
        };
        if body.ops.is_empty() && body.params.is_empty() {
            body.params = inputs.iter().map(|ty| self.unnamed(ty)).collect();
        }
        let own: Vec<&ModuleType> = body.params.iter().map(|v| &self.types[v.index()]).collect();
        if own != inputs.iter().collect::<Vec<_>>() {
            return Err(problem(self.at.text, start, MISMATCH, format!("the body of `@{name}` has other parameters than its type"), ""));
        }
        let slots = |types: Vec<ModuleType>, attrs: Option<ModuleAttr>| {
            let mut attrs = match attrs {
                Some(ModuleAttr::List(all)) => all.into_iter(),
                _ => Vec::new().into_iter(),
            };
            let mut next = || match attrs.next() {
                Some(ModuleAttr::Fields(f)) => f,
                _ => Attrs::new(),
            };
            types.into_iter().map(|ty| Slot { ty, attrs: next() }).collect()
        };
        let params = slots(inputs, op.attrs.shift_remove("arg_attrs"));
        let results = slots(results, op.attrs.shift_remove("res_attrs"));
        self.close_function(start, Function { name, params, results, types: Vec::new(), body, place })
    }

    fn open_function(&mut self) {
        self.types.clear();
        self.names.clear();
        self.scope.clear();
    }

    fn close_function(&mut self, at: usize, mut function: Function) -> Step<()> {
        function.types = std::mem::take(&mut self.types);
        if let Some(last) = function.body.ops.last() {
            let returned: Vec<&ModuleType> = last.operands.iter().map(|v| function.ty(*v)).collect();
            if last.name != "func.return" {
                return Err(problem(self.at.text, at, STRUCTURE, format!("`@{}` does not end with a return", function.name), ""));
            }
            if returned.len() != function.results.len() {
                let what = format!("`@{}` returns {} values and has {} results", function.name, returned.len(), function.results.len());
                return Err(problem(self.at.text, at, MISMATCH, what, ""));
            }
        }
        if self.module.functions.contains_key(&function.name) {
            return Err(problem(self.at.text, at, NAME, format!("the function `@{}` is there twice", function.name), ""));
        }
        self.module.functions.insert(function.name.clone(), function);
        Ok(())
    }

    /// The section `{-# … #-}` at the end of a file.
    fn skip_resources(&mut self) -> Step<()> {
        match self.at.text[self.at.pos..].find("#-}") {
            Some(length) => {
                self.at.pos += length + 3;
                Ok(())
            }
            None => Err(self.at.fault(STRUCTURE, "the resources are never closed", "`#-}` was expected")),
        }
    }

    /// The data of a resource, as the file writes it.
    pub(super) fn resource(&mut self, key: &str) -> Step<Option<&'a str>> {
        if self.resources.is_none() {
            let all = match self.at.text.rfind("{-#") {
                Some(start) => self.read_resources(start)?,
                None => FxHashMap::default(),
            };
            self.resources = Some(all);
        }
        Ok(self.resources.as_ref().and_then(|r| r.get(key).copied()))
    }

    /// `{-# dialect_resources: { builtin: { key: "0x…" } } #-}`: every string behind a key, whatever it is nested in.
    fn read_resources(&mut self, start: usize) -> Step<FxHashMap<String, &'a str>> {
        let mut all = FxHashMap::default();
        let mut c = self.at.clone();
        c.pos = start + 3;
        while !c.eat("#-}") {
            match c.peek() {
                b'{' | b'}' | b',' => c.pos += 1,
                _ => {
                    let key = if c.peek() == b'"' { c.string()? } else { c.suffix()?.to_string() };
                    c.expect(":")?;
                    if c.peek() == b'"' {
                        all.insert(key, c.raw_string()?);
                    }
                }
            }
        }
        Ok(all)
    }
}
