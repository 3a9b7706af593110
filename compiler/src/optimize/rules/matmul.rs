//! Products: transposes go into dimension numbers, factors come out, products that share an operand join.

use super::Row;
use super::RuleClass::{Exact as E, Reassociates as R};

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    // Dimension numbers.
    ("dot-transpose-left",   E, "(dot_general[?lb, ?rb, ?lc, ?rc] (transpose[?p] ?a) ?b)",
                                "(transpose[left_order(?p, ?lb, ?lc, ?rb, ?rc, ?b)] (dot_general[pick(?p, ?lb), ?rb, pick(?p, ?lc), ?rc] ?a ?b))",  ""),
    ("dot-transpose-right",  E, "(dot_general[?lb, ?rb, ?lc, ?rc] ?a (transpose[?p] ?b))",
                                "(transpose[right_order(?p, ?lb, ?lc, ?rb, ?rc, ?a)] (dot_general[?lb, pick(?p, ?rb), ?lc, pick(?p, ?rc)] ?a ?b))", ""),
    ("transpose-dot",        E, "(transpose[?p] (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b))",
                                "(dot_general[head(?p, ?lb), head(?p, ?rb), ?lc, ?rc] ?a ?b)",                           "absorbs(?p, ?lb, ?lc, ?a)"),
    ("transpose-dot-swap",   E, "(transpose[?p] (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b))",
                                "(dot_general[head(?p, ?rb), head(?p, ?lb), ?rc, ?lc] ?b ?a)",                           "absorbs_swapped(?p, ?lb, ?lc, ?a)"),
    // Signs and factors.
    ("dot-neg-left",         R, "(dot_general[?lb, ?rb, ?lc, ?rc] (neg ?a) ?b)",        "(neg (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b))",                  "float(?a)"),
    ("dot-neg-right",        R, "(dot_general[?lb, ?rb, ?lc, ?rc] ?a (neg ?b))",        "(neg (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b))",                  "float(?a)"),
    ("dot-number-left",      R, "(dot_general[?lb, ?rb, ?lc, ?rc] (mul ?a #c) ?b)",     "(mul (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b) value(#c))",        "float(?a) & varying(?a)"),
    ("dot-number-right",     R, "(dot_general[?lb, ?rb, ?lc, ?rc] ?a (mul ?b #c))",     "(mul (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b) value(#c))",        "float(?a) & varying(?b)"),
    // Products that share an operand.
    ("dots-share-left",      R, "(add (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b) (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?c))",
                                "(dot_general[?lb, ?rb, ?lc, ?rc] ?a (add ?b ?c))",                                      "float(?a) & same_type(?b, ?c)"),
    ("dots-share-right",     R, "(add (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?c) (dot_general[?lb, ?rb, ?lc, ?rc] ?b ?c))",
                                "(dot_general[?lb, ?rb, ?lc, ?rc] (add ?a ?b) ?c)",                                      "float(?a) & same_type(?a, ?b)"),
    ("dots-differ-left",     R, "(sub (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?b) (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?c))",
                                "(dot_general[?lb, ?rb, ?lc, ?rc] ?a (sub ?b ?c))",                                      "float(?a) & same_type(?b, ?c)"),
    ("dots-differ-right",    R, "(sub (dot_general[?lb, ?rb, ?lc, ?rc] ?a ?c) (dot_general[?lb, ?rb, ?lc, ?rc] ?b ?c))",
                                "(dot_general[?lb, ?rb, ?lc, ?rc] (sub ?a ?b) ?c)",                                      "float(?a) & same_type(?a, ?b)"),
];
