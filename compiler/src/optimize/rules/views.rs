//! Views: transposes, reshapes and broadcasts compose, cancel, and let elementwise ops through to where they cost least.

use super::Row;
use super::RuleClass::Exact as E;

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    // Composition.
    ("transpose-transpose",   E, "(transpose[?p] (transpose[?q] ?a))",                     "(transpose[pick(?q, ?p)] ?a)",                                       ""),
    ("transpose-identity",    E, "(transpose[?p] ?a)",                                     "?a",                                                                 "identity(?p)"),
    ("transpose-of-units",    E, "(transpose[?p] ?a)",                                     "(reshape[pick(shape(?a), ?p)] ?a)",                                  "moves_units(?a, ?p) & not_identity(?p)"),
    ("reshape-reshape",       E, "(reshape[?s] (reshape[?t] ?a))",                         "(reshape[?s] ?a)",                                                   ""),
    ("reshape-same",          E, "(reshape[?s] ?a)",                                       "?a",                                                                 "has_shape(?a, ?s)"),
    ("broadcast-broadcast",   E, "(broadcast[?s, ?d] (broadcast[?t, ?e] ?a))",             "(broadcast[?s, pick(?d, ?e)] ?a)",                                   ""),
    ("broadcast-same",        E, "(broadcast[?s, ?d] ?a)",                                 "?a",                                                                 "has_shape(?a, ?s) & identity(?d)"),
    ("transpose-broadcast",   E, "(transpose[?p] (broadcast[?s, ?d] ?a))",                 "(broadcast[pick(?s, ?p), pick(inverse(?p), ?d)] ?a)",                ""),
    ("broadcast-transpose",   E, "(broadcast[?s, ?d] (transpose[?p] ?a))",                 "(broadcast[?s, place(?d, ?p)] ?a)",                                  ""),
    ("broadcast-reshape",     E, "(broadcast[?s, ?d] (reshape[?t] ?a))",                   "(broadcast[?s, through(?a, ?t, ?d, ?s)] ?a)",                        ""),
    ("reshape-broadcast",     E, "(reshape[?s] (broadcast[?t, ?d] ?a))",                   "(broadcast[?s, onward(?a, ?t, ?d, ?s)] ?a)",                         ""),
    ("reshape-spread-scalar", E, "(reshape[?s] (broadcast[?t, ?d] ?a))",                   "(broadcast[?s, none()] (reshape[none()] ?a))",                       "scalar(?a)"),
    // Transposes sink toward what absorbs them, and rise to meet each other.
    ("transpose-unary",       E, "(transpose[?p] (%unary ?a))",                            "(%unary (transpose[?p] ?a))",                                        ""),
    ("transpose-binary",      E, "(transpose[?p] (%binary ?a ?b))",                        "(%binary (transpose[?p] ?a) (transpose[?p] ?b))",                    "either_movable(?a, ?b)"),
    ("transpose-convert",     E, "(transpose[?p] (convert[?t] ?a))",                       "(convert[?t] (transpose[?p] ?a))",                                   ""),
    ("unary-transpose",       E, "(%unary (transpose[?p] ?a))",                            "(transpose[?p] (%unary ?a))",                                        ""),
    ("binary-transposes",     E, "(%binary (transpose[?p] ?a) (transpose[?p] ?b))",        "(transpose[?p] (%binary ?a ?b))",                                    "same_type(?a, ?b)"),
    ("convert-transpose",     E, "(convert[?t] (transpose[?p] ?a))",                       "(transpose[?p] (convert[?t] ?a))",                                   ""),
    // Reshapes rise, so that they meet.
    ("unary-reshape",         E, "(%unary (reshape[?s] ?a))",                              "(reshape[?s] (%unary ?a))",                                          ""),
    ("binary-reshapes",       E, "(%binary (reshape[?s] ?a) (reshape[?s] ?b))",            "(reshape[?s] (%binary ?a ?b))",                                      "same_type(?a, ?b)"),
    ("number-right-reshape",  E, "(%binary (reshape[?s] ?a) #c)",                          "(reshape[?s] (%binary ?a value(#c)))",                               "varying(?a) & trailing_units(?a, ?s)"),
    ("number-left-reshape",   E, "(%binary #c (reshape[?s] ?a))",                          "(reshape[?s] (%binary value(#c) ?a))",                               "varying(?a) & trailing_units(?a, ?s)"),
    ("convert-reshape",       E, "(convert[?t] (reshape[?s] ?a))",                         "(reshape[?s] (convert[?t] ?a))",                                     ""),
    // Broadcasts rise: compute before repeating.
    ("unary-broadcast",       E, "(%unary (broadcast[?s, ?d] ?a))",                        "(broadcast[?s, ?d] (%unary ?a))",                                    "varying(?a)"),
    ("binary-broadcasts",     E, "(%binary (broadcast[?s, ?d] ?a) (broadcast[?s, ?d] ?b))", "(broadcast[?s, ?d] (%binary ?a ?b))",                               "same_type(?a, ?b)"),
    ("number-right-broadcast", E, "(%binary (broadcast[?s, ?d] ?a) #c)",                   "(broadcast[?s, ?d] (%binary ?a value(#c)))",                         "varying(?a) & smaller(?a, ?s)"),
    ("number-left-broadcast", E, "(%binary #c (broadcast[?s, ?d] ?a))",                    "(broadcast[?s, ?d] (%binary value(#c) ?a))",                         "varying(?a) & smaller(?a, ?s)"),
    ("convert-broadcast",     E, "(convert[?t] (broadcast[?s, ?d] ?a))",                   "(broadcast[?s, ?d] (convert[?t] ?a))",                               ""),
    ("broadcast-neg",         E, "(broadcast[?s, ?d] (neg ?a))",                           "(neg (broadcast[?s, ?d] ?a))",                                       "varying(?a)"),
    ("reshape-neg",           E, "(reshape[?s] (neg ?a))",                                 "(neg (reshape[?s] ?a))",                                             "varying(?a)"),
];
