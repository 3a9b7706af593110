//! Reductions: merging, and taking out whatever does not move along the reduced dimensions. They clean up what reverse mode leaves
//! behind for every broadcast.

use super::Row;
use super::RuleClass::{Exact as E, Reassociates as R};

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    ("reduce-reduce",       R, "(reduce[?m, ?d] (reduce[?m, ?e] ?a))",                   "(reduce[?m, merge(?d, ?e, ?a)] ?a)",                                                          ""),
    ("reduce-units",        E, "(reduce[?m, ?d] ?a)",                                    "(reshape[without(shape(?a), ?d)] ?a)",                                                        "units(?a, ?d)"),
    ("reduce-transpose",    R, "(reduce[?m, ?d] (transpose[?p] ?a))",                    "(transpose[ranks(without(?p, ?d))] (reduce[?m, sorted(pick(?p, ?d))] ?a))",                   ""),
    ("sum-neg",             R, "(reduce[sum, ?d] (neg ?a))",                             "(neg (reduce[sum, ?d] ?a))",                                                                  ""),
    ("sum-scaled",          R, "(reduce[sum, ?d] (mul ?a #c))",                          "(mul (reduce[sum, ?d] ?a) value(#c))",                                                        "float(?a) & varying(?a)"),
    ("sum-of-multiples",    R, "(reduce[sum, ?d] (mul ?a (broadcast[?s, ?e] ?b)))",      "(mul (reduce[sum, ?d] ?a) (broadcast[without(?s, ?d), shift(?d, ?e)] ?b))",                   "float(?a) & disjoint(?e, ?d)"),
    ("sum-of-quotients",    R, "(reduce[sum, ?d] (div ?a (broadcast[?s, ?e] ?b)))",      "(div (reduce[sum, ?d] ?a) (broadcast[without(?s, ?d), shift(?d, ?e)] ?b))",                   "float(?a) & disjoint(?e, ?d)"),
    ("sum-broadcast",       R, "(reduce[sum, ?d] (broadcast[?s, ?e] ?a))",               "(mul (broadcast[without(?s, ?d), shift(?d, ?e)] (reduce[sum, own(?d, ?e)] ?a)) copies(?d, ?e, ?s, ?a))", "float(?a)"),
    ("max-broadcast",       E, "(reduce[max, ?d] (broadcast[?s, ?e] ?a))",               "(broadcast[without(?s, ?d), shift(?d, ?e)] (reduce[max, own(?d, ?e)] ?a))",                   ""),
    ("min-broadcast",       E, "(reduce[min, ?d] (broadcast[?s, ?e] ?a))",               "(broadcast[without(?s, ?d), shift(?d, ?e)] (reduce[min, own(?d, ?e)] ?a))",                   ""),
    ("sum-splits",          R, "(reduce[sum, ?d] (add ?a ?b))",                          "(add (reduce[sum, ?d] ?a) (reduce[sum, ?d] ?b))",                                             "float(?a) & has(?b, broadcast)"),
    ("difference-splits",   R, "(reduce[sum, ?d] (sub ?a ?b))",                          "(sub (reduce[sum, ?d] ?a) (reduce[sum, ?d] ?b))",                                             "float(?a) & has(?b, broadcast)"),
    ("sums-join",           R, "(add (reduce[sum, ?d] ?a) (reduce[sum, ?d] ?b))",        "(reduce[sum, ?d] (add ?a ?b))",                                                               "float(?a) & same_type(?a, ?b)"),
    ("max-neg",             E, "(reduce[max, ?d] (neg ?a))",                             "(neg (reduce[min, ?d] ?a))",                                                                  "float(?a)"),
    ("min-neg",             E, "(reduce[min, ?d] (neg ?a))",                             "(neg (reduce[max, ?d] ?a))",                                                                  "float(?a)"),
];
