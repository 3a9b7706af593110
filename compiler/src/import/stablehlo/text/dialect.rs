//! Attributes of dialects: enumerations become words, structures become fields, and shardings fields of axes.
//!
//! Printers leave empty lists and zeros of dimension numbers out; they are filled in here, so that a field is either always there
//! or never.

use super::Reader;
use super::attr::Attrs;
use super::error::{SYNTAX, Step, problem};
use crate::import::stablehlo::module::ModuleAttr;

/// Structures whose lists are filled in, and the whole numbers that default to 0.
#[rustfmt::skip]
const FILLED: &[(&str, &[&str], &[&str])] = &[
    ("dot",     &["lhs_batching_dimensions", "rhs_batching_dimensions", "lhs_contracting_dimensions", "rhs_contracting_dimensions"], &[]),
    ("gather",  &["offset_dims", "collapsed_slice_dims", "operand_batching_dims", "start_indices_batching_dims", "start_index_map"], &["index_vector_dim"]),
    ("scatter", &["update_window_dims", "inserted_window_dims", "input_batching_dims", "scatter_indices_batching_dims", "scatter_dims_to_operand_dims"], &["index_vector_dim"]),
];

/// Structures that must be fields, so that a problem inside them is told where it is.
const FIELDS: &[&str] = &["dot", "gather", "scatter", "channel_handle", "dot_algorithm", "ragged_dot", "output_operand_alias"];

impl Reader<'_> {
    /// What follows `#name`: `.kind<…>` or `<kind …>`.
    pub(super) fn dialect_attr(&mut self, name: &str, start: usize) -> Step<ModuleAttr> {
        let (dialect, kind) = name.split_once('.').unwrap_or((name, ""));
        let ours = matches!(dialect, "stablehlo" | "chlo" | "mhlo");
        if dialect == "sdy" {
            return self.sdy_attr(kind, start);
        }
        if ours && kind == "conv" {
            self.at.expect("<")?;
            let dims = self.conv_dims()?;
            self.at.expect(">")?;
            return Ok(ModuleAttr::Fields(dims));
        }
        if ours && !kind.is_empty() {
            return self.structure(kind, start);
        }
        if ours && kind.is_empty() {
            // `<precision DEFAULT>`: the kind, then the case; or `<conv [b, 0]x…>`.
            self.at.expect("<")?;
            let kind = self.at.name("the kind of an attribute")?;
            if kind == "conv" {
                let dims = self.conv_dims()?;
                self.at.expect(">")?;
                return Ok(ModuleAttr::Fields(dims));
            }
            if self.at.peek() == b'<' {
                let fields = self.fields(kind)?;
                self.at.expect(">")?;
                return Ok(ModuleAttr::Fields(fields));
            }
            let case = self.at.name("a case of an enumeration")?;
            self.at.expect(">")?;
            return Ok(ModuleAttr::Word(case.to_string()));
        }
        if self.at.byte() == b'<' {
            self.at.balanced()?;
        }
        Ok(ModuleAttr::Other(self.at.slice(start, self.at.pos).to_string()))
    }

    /// `<a = [0], b = 1>` as fields, `<DEFAULT>` as a word, and anything else as it stands.
    fn structure(&mut self, kind: &str, start: usize) -> Step<ModuleAttr> {
        let before = self.at.clone();
        self.at.expect("<")?;
        let word = self.at.word();
        self.at.pos += word.len();
        if !word.is_empty() && self.at.eat_byte(b'>') {
            return Ok(ModuleAttr::Word(word.to_string()));
        }
        self.at = before.clone();
        match self.fields(kind) {
            Err(p) if !FIELDS.contains(&kind) && p.code == SYNTAX => {
                self.at = before;
                self.at.balanced()?;
                Ok(ModuleAttr::Other(self.at.slice(start, self.at.pos).to_string()))
            }
            fields => Ok(ModuleAttr::Fields(fields?)),
        }
    }

    /// `<a = [0], b = 1>`
    pub(super) fn fields(&mut self, kind: &str) -> Step<Attrs> {
        let mut all = Attrs::new();
        self.at.enter()?;
        self.at.expect("<")?;
        while !self.at.eat_byte(b'>') {
            let start = self.at.pos;
            let key = self.at.name("the name of a field")?;
            self.at.expect("=")?;
            let value = if self.at.peek() == b'[' { self.int_list()? } else { self.attr()? };
            if all.insert(key.to_string(), value).is_some() {
                return Err(problem(self.at.text, start, super::error::NAME, format!("the field `{key}` is there twice"), ""));
            }
            if !self.at.eat_byte(b',') {
                self.at.expect(">")?;
                break;
            }
        }
        self.at.leave();
        if let Some((_, lists, wholes)) = FILLED.iter().find(|(k, ..)| *k == kind) {
            for list in *lists {
                all.entry((*list).to_string()).or_insert_with(|| ModuleAttr::Ints(Vec::new()));
            }
            for whole in *wholes {
                all.entry((*whole).to_string()).or_insert(ModuleAttr::Int(0));
            }
        }
        Ok(all)
    }

    /// A list of a structure: of whole numbers if all are, else of attributes.
    fn int_list(&mut self) -> Step<ModuleAttr> {
        let ModuleAttr::List(all) = self.attr()? else { return Err(self.at.expected("a list")) };
        let ints: Option<Vec<i64>> = all.iter().map(|a| if let ModuleAttr::Int(v) = a { Some(*v) } else { None }).collect();
        Ok(ints.map_or(ModuleAttr::List(all), ModuleAttr::Ints))
    }

    /// `[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]`
    pub(super) fn conv_dims(&mut self) -> Step<Attrs> {
        let mut all = Attrs::new();
        self.conv_side(&mut all, [("b", "input_batch_dimension"), ("f", "input_feature_dimension")], "input_spatial_dimensions")?;
        self.at.expect("x")?;
        let kernel = [("i", "kernel_input_feature_dimension"), ("o", "kernel_output_feature_dimension")];
        self.conv_side(&mut all, kernel, "kernel_spatial_dimensions")?;
        self.at.expect("->")?;
        self.conv_side(&mut all, [("b", "output_batch_dimension"), ("f", "output_feature_dimension")], "output_spatial_dimensions")?;
        Ok(all)
    }

    /// One side: letters and numbers at the positions of the dimensions.
    fn conv_side(&mut self, all: &mut Attrs, letters: [(&str, &str); 2], spatial: &str) -> Step<()> {
        self.at.skip();
        let start = self.at.pos;
        let mut named = [None, None];
        let mut at: Vec<(usize, i64)> = Vec::new();
        let parts = self.list_of("[", "]", |r| {
            Ok(if r.at.peek().is_ascii_digit() { Ok(r.at.unsigned()?) } else { Err(r.at.name("a dimension")?) })
        })?;
        for (position, part) in (0_i64..).zip(parts) {
            match part {
                Ok(number) => at.push((number, position)),
                Err(letter) => {
                    let which = letters.iter().position(|(l, _)| *l == letter);
                    match which.and_then(|w| named.get_mut(w)) {
                        Some(slot @ None) => *slot = Some(position),
                        _ => {
                            return Err(problem(
                                self.at.text,
                                start,
                                SYNTAX,
                                format!("`{letter}` is no dimension here, or is there twice"),
                                "",
                            ));
                        }
                    }
                }
            }
        }
        at.sort_unstable();
        let complete = at.iter().enumerate().all(|(i, (number, _))| i == *number);
        let [Some(first), Some(second)] = named else {
            let why = format!("each side has `{}`, `{}` and the spatial dimensions", letters[0].0, letters[1].0);
            return Err(problem(self.at.text, start, SYNTAX, "the dimensions of a convolution are incomplete", &why));
        };
        if !complete {
            return Err(problem(self.at.text, start, SYNTAX, "the spatial dimensions are not 0, 1, …", ""));
        }
        all.insert(letters[0].1.to_string(), ModuleAttr::Int(first));
        all.insert(letters[1].1.to_string(), ModuleAttr::Int(second));
        all.insert(spatial.to_string(), ModuleAttr::Ints(at.into_iter().map(|(_, p)| p).collect()));
        Ok(())
    }

    /// Attributes of the sharding dialect.
    fn sdy_attr(&mut self, kind: &str, start: usize) -> Step<ModuleAttr> {
        match kind {
            "sharding" => self.sharding(),
            "sharding_per_value" => {
                self.at.expect("<")?;
                let all = self.list_of("[", "]", Self::sharding)?;
                self.at.expect(">")?;
                Ok(ModuleAttr::List(all))
            }
            "mesh" => self.mesh_axes(),
            "" if self.at.eat("<manual_axes") => {
                let axes = self.axes()?;
                self.at.expect(">")?;
                Ok(ModuleAttr::List(axes))
            }
            _ => {
                if self.at.byte() == b'<' {
                    self.at.balanced()?;
                }
                Ok(ModuleAttr::Other(self.at.slice(start, self.at.pos).to_string()))
            }
        }
    }

    /// `<["dp"=2, "tp"=2]>` as fields, axis by axis; none when device ids follow that are not 0, 1, ….
    pub(super) fn mesh_axes(&mut self) -> Step<ModuleAttr> {
        self.at.expect("<")?;
        let axes = self.list_of("[", "]", |r| {
            let name = r.at.string()?;
            r.at.expect("=")?;
            Ok((name, ModuleAttr::Int(r.at.int()?)))
        })?;
        let mut in_order = true;
        while self.at.eat_byte(b',') {
            self.at.name("`device_ids`")?;
            self.at.expect("=")?;
            let ids = match self.attr()? {
                ModuleAttr::Ints(ids) => ids,
                ModuleAttr::List(ids) => ids.iter().map(|i| if let ModuleAttr::Int(i) = i { *i } else { -1 }).collect(),
                _ => Vec::new(),
            };
            in_order &= (0..).zip(&ids).all(|(at, id)| at == *id);
        }
        self.at.expect(">")?;
        Ok(ModuleAttr::Fields(axes.into_iter().filter(|_| in_order).collect()))
    }

    /// `<@mesh, [{"dp"}, {}], replicated={"tp"}>` as the fields `mesh`, `dim_shardings` (a list of axes for each dimension; `?` and
    /// priorities are words among them), `replicated`, `unreduced`.
    pub(super) fn sharding(&mut self) -> Step<ModuleAttr> {
        self.at.enter()?;
        self.at.expect("<")?;
        let mut all = Attrs::new();
        let mesh = if self.at.peek() == b'@' { ModuleAttr::Symbol(self.at.symbol()?) } else { self.attr()? };
        all.insert("mesh".into(), mesh);
        self.at.expect(",")?;
        let dims = self.list_of("[", "]", |r| {
            let mut axes = r.axes()?;
            let priority = r.at.word();
            if priority.starts_with('p') && priority[1..].bytes().all(|b| b.is_ascii_digit()) {
                r.at.pos += priority.len();
                axes.push(ModuleAttr::Word(priority.to_string()));
            }
            Ok(ModuleAttr::List(axes))
        })?;
        all.insert("dim_shardings".into(), ModuleAttr::List(dims));
        while self.at.eat_byte(b',') {
            let key = self.at.name("`replicated` or `unreduced`")?;
            self.at.expect("=")?;
            let axes = self.axes()?;
            all.insert(key.to_string(), ModuleAttr::List(axes));
        }
        self.at.expect(">")?;
        self.at.leave();
        Ok(ModuleAttr::Fields(all))
    }

    /// `{"dp", "x":(1)2, ?}`
    pub(super) fn axes(&mut self) -> Step<Vec<ModuleAttr>> {
        self.list_of("{", "}", |r| {
            if r.at.eat_byte(b'?') {
                return Ok(ModuleAttr::Word("?".into()));
            }
            let mut axis = r.at.string()?;
            if r.at.eat_byte(b':') {
                let part = r.at.balanced()?;
                axis.push_str(&format!(":{part}{}", r.at.unsigned()?));
            }
            Ok(ModuleAttr::Text(axis))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::reader;
    use super::*;

    fn fields(text: &str) -> Attrs {
        match reader(text, |r| r.attr()).unwrap() {
            ModuleAttr::Fields(f) => f,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn enumerations_are_words() {
        assert_eq!(reader("#stablehlo<comparison_direction LT>", |r| r.attr()).unwrap(), ModuleAttr::Word("LT".into()));
        assert_eq!(reader("#stablehlo.result_accuracy_mode<HIGHEST>", |r| r.attr()).unwrap(), ModuleAttr::Word("HIGHEST".into()));
        assert!(matches!(reader("#stablehlo.bounds<?, 2>", |r| r.attr()), Ok(ModuleAttr::Other(_))));
        assert_eq!(reader("#chlo<precision DEFAULT>", |r| r.attr()).unwrap(), ModuleAttr::Word("DEFAULT".into()));
    }

    #[test]
    fn empty_lists_are_filled_in() {
        let f = fields("#stablehlo.gather<collapsed_slice_dims = [1], start_index_map = [1], index_vector_dim = 2>");
        assert_eq!(f["collapsed_slice_dims"], ModuleAttr::Ints(vec![1]));
        assert_eq!(f["offset_dims"], ModuleAttr::Ints(vec![]));
        assert_eq!(f["index_vector_dim"], ModuleAttr::Int(2));
        assert_eq!(fields("#stablehlo.dot<lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [0]>").len(), 4);
        assert_eq!(fields("#stablehlo.channel_handle<handle = 1, type=0>")["handle"], ModuleAttr::Int(1));
    }

    #[test]
    fn convolution_dimensions() {
        let f = fields("#stablehlo.conv<[f, 0, 1, b]x[i, 1, 0, o]->[0, 1, b, f]>");
        assert_eq!((&f["input_batch_dimension"], &f["input_feature_dimension"]), (&ModuleAttr::Int(3), &ModuleAttr::Int(0)));
        assert_eq!(f["kernel_spatial_dimensions"], ModuleAttr::Ints(vec![2, 1]));
        assert_eq!(f["output_spatial_dimensions"], ModuleAttr::Ints(vec![0, 1]));
        for bad in ["[b, 0]x[0, i, o]->[b, 0, f]", "[b, b, f]x[i, o]->[b, f]", "[b, 1, f]x[0, i, o]->[b, 0, f]", "[b, f]x[i, o]->[b, q]"] {
            assert!(reader(&format!("#stablehlo.conv<{bad}>"), |r| r.attr()).is_err(), "{bad}");
        }
    }

    #[test]
    fn shardings_are_fields() {
        let f = fields("#sdy.sharding<@mesh, [{\"dp\", \"x\":(1)2, ?}p1, {}], replicated={\"tp\"}>");
        assert_eq!(f["mesh"], ModuleAttr::Symbol("mesh".into()));
        let text = |t: &str| ModuleAttr::Text(t.into());
        let first = vec![text("dp"), text("x:(1)2"), ModuleAttr::Word("?".into()), ModuleAttr::Word("p1".into())];
        assert_eq!(f["dim_shardings"], ModuleAttr::List(vec![ModuleAttr::List(first), ModuleAttr::List(vec![])]));
        assert_eq!(f["replicated"], ModuleAttr::List(vec![text("tp")]));
        let all = reader("#sdy.sharding_per_value<[<@m, [{}]>, <@m, []>]>", |r| r.attr()).unwrap();
        assert!(matches!(all, ModuleAttr::List(l) if l.len() == 2));
        assert_eq!(reader("#sdy<manual_axes{\"a\"}>", |r| r.attr()).unwrap(), ModuleAttr::List(vec![text("a")]));
    }
}
