//! Rules that open up alternatives without bringing anything closer by themselves. They run on a budget, in small regions only.

use super::Row;
use super::RuleClass::Reassociates as R;

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    ("add-associate",      R, "(add (add ?a ?b) ?c)",        "(add ?a (add ?b ?c))",           "float(?a)"),
    ("mul-associate",      R, "(mul (mul ?a ?b) ?c)",        "(mul ?a (mul ?b ?c))",           "float(?a)"),
    ("add-sub-associate",  R, "(sub (add ?a ?b) ?c)",        "(add ?a (sub ?b ?c))",           "float(?a)"),
    ("mul-div-associate",  R, "(div (mul ?a ?b) ?c)",        "(mul ?a (div ?b ?c))",           "float(?a)"),
];
