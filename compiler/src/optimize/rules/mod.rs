//! The rewrite rules: aligned tables by theme. `README.md` beside this file has the laws they keep.

mod activations;
mod algebra;
mod explore;
mod matmul;
mod reduce;
mod rows;
#[cfg(test)]
mod soundness;
mod views;

use super::pattern::{Guard, Names, Pattern, ReadError, Template, read_guards, read_pattern, read_template};
use girih_ir::ops::Op;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// How a rule may change the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub enum RuleClass {
    /// Not at all: every bit is the same, whatever the values.
    Exact,
    /// By rounding, or in the sign of zero: the same real-number expression, evaluated in another order.
    #[default]
    Reassociates,
    /// At special values: infinities, NaN, overflow of an intermediate result, division by zero.
    Approximates,
}

impl RuleClass {
    /// The word for users.
    pub fn name(self) -> &'static str {
        match self {
            RuleClass::Exact => "exact",
            RuleClass::Reassociates => "reassociates",
            RuleClass::Approximates => "approximates",
        }
    }
    /// The class of that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [RuleClass::Exact, RuleClass::Reassociates, RuleClass::Approximates].into_iter().find(|c| c.name() == name)
    }
}

/// A line of a table: name, class, left side, right side, guards.
type Row = (&'static str, RuleClass, &'static str, &'static str, &'static str);

/// A rule, read.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Its name.
    pub name: &'static str,
    /// How it may change the numbers.
    pub class: RuleClass,
    /// Whether it belongs to the budgeted phase.
    pub explore: bool,
    /// What it finds.
    pub from: Pattern,
    /// What that equals.
    pub to: Template,
    /// What must hold.
    pub guards: Vec<Guard>,
    /// Its variables.
    pub names: Names,
    /// Whether it makes a composite op, all of which are of floats.
    pub composite: bool,
}

const THEMES: &[(&str, &[Row])] = &[
    ("algebra", algebra::RULES),
    ("views", views::RULES),
    ("reduce", reduce::RULES),
    ("matmul", matmul::RULES),
    ("rows", rows::RULES),
    ("activations", activations::RULES),
    ("explore", explore::RULES),
];

static COMPOSITES: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| {
    let primitives: BTreeSet<&str> = Op::primitive_names().into_iter().collect();
    Op::names().into_iter().filter(|n| !primitives.contains(n)).collect()
});

fn read((name, class, from, to, guards): &Row, explore: bool) -> Result<Rule, ReadError> {
    let mut names = Names::default();
    let composite = to.split('(').filter_map(|op| op.split([' ', '[', ')']).next()).any(|op| COMPOSITES.contains(op));
    let from = read_pattern(from, &mut names)?;
    let to = read_template(to, &mut names)?;
    let guards = read_guards(guards, &mut names)?;
    Ok(Rule { name, class: *class, explore, from, to, guards, names, composite })
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rows = THEMES.iter().flat_map(|(theme, rows)| rows.iter().map(move |row| (*theme, row)));
    rows.map(|(theme, row)| read(row, theme == "explore").expect("the tables are constants, and a test reads them all")).collect()
});

/// Every rule, in table order.
pub(super) fn all() -> &'static [Rule] {
    &RULES
}

/// Name, class and theme of every rule, in table order.
pub fn list() -> Vec<(&'static str, RuleClass, &'static str)> {
    THEMES.iter().flat_map(|(theme, rows)| rows.iter().map(move |r| (r.0, r.1, *theme))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_read_and_names_are_unique_and_kebab_case() {
        let mut seen = BTreeSet::new();
        for (theme, rows) in THEMES {
            for row in *rows {
                if let Err(e) = read(row, false) {
                    panic!("{theme}/{}: {e}", row.0);
                }
                assert!(seen.insert(row.0), "two rules are called {}", row.0);
                assert!(row.0.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{} is not kebab-case", row.0);
            }
        }
        assert!(seen.len() > 80);
    }
}
