//! Scalar algebra: neutral elements, signs, reciprocals, factors.

use super::Row;
use super::RuleClass::{Approximates as A, Exact as E, Reassociates as R};

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    // Neutral elements. `x + 0` changes the sign of a negative zero.
    ("add-zero",             R, "(add ?a 0)",                                      "?a",                                              ""),
    ("sub-zero",             E, "(sub ?a 0)",                                      "?a",                                              ""),
    ("zero-sub",             R, "(sub 0 ?a)",                                      "(neg ?a)",                                        ""),
    ("mul-one",              E, "(mul ?a 1)",                                      "?a",                                              ""),
    ("div-one",              E, "(div ?a 1)",                                      "?a",                                              ""),
    ("pow-one",              E, "(pow ?a 1)",                                      "?a",                                              ""),
    ("mul-minus-one",        E, "(mul ?a -1)",                                     "(neg ?a)",                                        "float(?a)"),
    ("mul-zero",             A, "(mul ?a 0)",                                      "0",                                               "float(?a)"),
    ("sub-self",             A, "(sub ?a ?a)",                                     "0",                                               "float(?a)"),
    ("div-self",             A, "(div ?a ?a)",                                     "1",                                               "float(?a)"),
    ("max-self",             E, "(max ?a ?a)",                                     "?a",                                              ""),
    ("min-self",             E, "(min ?a ?a)",                                     "?a",                                              ""),
    ("max-floor",            E, "(max ?a -inf)",                                   "?a",                                              "float(?a)"),
    ("min-ceiling",          E, "(min ?a inf)",                                    "?a",                                              "float(?a)"),
    ("select-same",          E, "(select ?c ?a ?a)",                               "?a",                                              ""),
    ("select-not",           E, "(select (not ?c) ?a ?b)",                         "(select ?c ?b ?a)",                               ""),
    // Signs.
    ("neg-neg",              E, "(neg (neg ?a))",                                  "?a",                                              ""),
    ("add-neg",              E, "(add ?a (neg ?b))",                               "(sub ?a ?b)",                                     ""),
    ("sub-neg",              E, "(sub ?a (neg ?b))",                               "(add ?a ?b)",                                     ""),
    ("neg-sub",              R, "(neg (sub ?a ?b))",                               "(sub ?b ?a)",                                     ""),
    ("neg-add",              R, "(neg (add ?a (neg ?b)))",                         "(sub ?b ?a)",                                     ""),
    ("neg-then-sub",         R, "(sub (neg ?a) ?b)",                               "(neg (add ?a ?b))",                               ""),
    ("mul-neg",              E, "(mul (neg ?a) ?b)",                               "(neg (mul ?a ?b))",                               ""),
    ("div-neg-left",         E, "(div (neg ?a) ?b)",                               "(neg (div ?a ?b))",                               "float(?a)"),
    ("div-neg-right",        E, "(div ?a (neg ?b))",                               "(neg (div ?a ?b))",                               "float(?a)"),
    ("sub-negative",         E, "(sub ?a (mul ?b #c))",                            "(add ?a (mul ?b negated(#c)))",                   "float(?a) & varying(?b) & negative(#c)"),
    ("neg-scaled",           E, "(neg (mul ?a #c))",                               "(mul ?a negated(#c))",                            "float(?a) & varying(?a)"),
    ("square-neg",           E, "(mul (neg ?a) (neg ?a))",                         "(mul ?a ?a)",                                     ""),
    ("abs-neg",              E, "(abs (neg ?a))",                                  "(abs ?a)",                                        "float(?a)"),
    ("abs-square",           E, "(mul (abs ?a) (abs ?a))",                         "(mul ?a ?a)",                                     "float(?a)"),
    // Known numbers gather, and leave products to the right of everything that varies.
    ("add-itself",           E, "(add ?a ?a)",                                     "(mul ?a 2)",                                      "float(?a) & varying(?a)"),
    ("mul-numbers",          R, "(mul (mul ?a #c) #d)",                            "(mul ?a product(#c, #d))",                        "float(?a) & varying(?a) & nonzero(#c) & nonzero(#d)"),
    ("add-numbers",          R, "(add (add ?a #c) #d)",                            "(add ?a total(#c, #d))",                          "float(?a) & varying(?a)"),
    ("sub-number",           E, "(sub ?a #c)",                                     "(add ?a negated(#c))",                            "float(?a) & varying(?a) & nonzero(#c)"),
    ("mul-number-out",       R, "(mul (mul ?a #c) ?b)",                            "(mul (mul ?a ?b) #c)",                            "float(?a) & varying(?a) & varying(?b)"),
    ("div-number-out",       R, "(div (mul ?a #c) ?b)",                            "(mul (div ?a ?b) #c)",                            "float(?a) & varying(?a) & varying(?b)"),
    ("div-by-power-of-two",  E, "(div ?a #c)",                                     "(mul ?a reciprocal(#c))",                         "float(?a) & varying(?a) & dyadic(#c)"),
    ("div-by-number",        R, "(div ?a #c)",                                     "(mul ?a reciprocal(#c))",                         "float(?a) & varying(?a) & not_dyadic(#c)"),
    ("add-number-multiple",  R, "(add (mul ?a #c) ?a)",                            "(mul ?a total(#c, 1))",                           "float(?a) & varying(?a) & nonzero(total(#c, 1))"),
    ("add-multiples",        R, "(add (mul ?a #c) (mul ?a #d))",                   "(mul ?a total(#c, #d))",                          "float(?a) & varying(?a) & nonzero(total(#c, #d))"),
    ("sub-multiples",        R, "(sub (mul ?a #c) (mul ?a #d))",                   "(mul ?a difference(#c, #d))",                     "float(?a) & varying(?a) & nonzero(difference(#c, #d))"),
    // Common factors.
    ("factor-add",           R, "(add (mul ?a ?b) (mul ?a ?c))",                   "(mul ?a (add ?b ?c))",                            "float(?a) & distinct(?b, ?c)"),
    ("factor-sub",           R, "(sub (mul ?a ?b) (mul ?a ?c))",                   "(mul ?a (sub ?b ?c))",                            "float(?a) & distinct(?b, ?c)"),
    ("factor-add-self",      R, "(add ?a (mul ?a ?b))",                            "(mul ?a (add ?b 1))",                             "float(?a) & varying(?a) & varying(?b)"),
    ("factor-div-add",       R, "(add (div ?a ?c) (div ?b ?c))",                   "(div (add ?a ?b) ?c)",                            "float(?a) & distinct(?a, ?b)"),
    ("factor-div-sub",       R, "(sub (div ?a ?c) (div ?b ?c))",                   "(div (sub ?a ?b) ?c)",                            "float(?a) & distinct(?a, ?b)"),
    ("mul-reciprocal",       R, "(mul ?a (div 1 ?b))",                             "(div ?a ?b)",                                     "float(?a)"),
    ("reciprocal-twice",     A, "(div 1 (div ?a ?b))",                             "(div ?b ?a)",                                     "float(?a)"),
    // Roots and powers.
    ("square",               R, "(pow ?a 2)",                                      "(mul ?a ?a)",                                     "float(?a)"),
    ("cube",                 R, "(pow ?a 3)",                                      "(mul (mul ?a ?a) ?a)",                            "float(?a)"),
    ("pow-half",             A, "(pow ?a 0.5)",                                    "(sqrt ?a)",                                       "float(?a)"),
    ("pow-minus-half",       A, "(pow ?a -0.5)",                                   "(rsqrt ?a)",                                      "float(?a)"),
    ("pow-minus-one",        R, "(pow ?a -1)",                                     "(div 1 ?a)",                                      "float(?a)"),
    ("reciprocal-root",      R, "(div 1 (sqrt ?a))",                               "(rsqrt ?a)",                                      "float(?a)"),
    ("div-root",             R, "(div ?a (sqrt ?b))",                              "(mul ?a (rsqrt ?b))",                             "float(?a)"),
    ("div-spread-root",      R, "(div ?a (broadcast[?s, ?d] (sqrt ?b)))",          "(mul ?a (broadcast[?s, ?d] (rsqrt ?b)))",         "float(?a)"),
    // Exponentials.
    ("exp-log",              A, "(exp (log ?a))",                                  "?a",                                              "float(?a)"),
    ("log-exp",              A, "(log (exp ?a))",                                  "?a",                                              "float(?a)"),
    ("exp-product",          A, "(mul (exp ?a) (exp ?b))",                         "(exp (add ?a ?b))",                               "float(?a)"),
    ("log-one-plus",         R, "(log (add ?a 1))",                                "(log1p ?a)",                                      "float(?a)"),
    ("exp-minus-one",        R, "(add (exp ?a) -1)",                               "(expm1 ?a)",                                      "float(?a)"),
    ("logistic",             R, "(div 1 (add (exp (neg ?a)) 1))",                  "(logistic ?a)",                                   "float(?a)"),
    // Conversions.
    ("convert-same",         E, "(convert[?t] ?a)",                                "?a",                                              "is_dtype(?t, ?a)"),
    ("convert-back",         E, "(convert[?t] (convert[?u] ?a))",                  "(convert[?t] ?a)",                                "wider(?u, ?a)"),
];
