//! Row-wise ops from their parts: softmax, log-softmax, normalizations and their gradients.
//!
//! `keeps(?k, ?d, ?x)` says that what was reduced over the dimensions d goes back to its own rows.

use super::Row;
use super::RuleClass::{Approximates as A, Reassociates as R};

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    // Softmax. Without the row maximum it overflows where the composite op does not.
    ("softmax",               R, "(div (exp ?x) (broadcast[?s, ?k] (reduce[sum, ?d] (exp ?x))))",
                                 "(softmax[only(?d)] ?x)",                                            "keeps(?k, ?d, ?x)"),
    ("softmax-reciprocal",    R, "(mul (exp ?x) (broadcast[?s, ?k] (div 1 (reduce[sum, ?d] (exp ?x)))))",
                                 "(softmax[only(?d)] ?x)",                                            "keeps(?k, ?d, ?x)"),
    ("softmax-shifted",       R, "(softmax[?i] (sub ?x (broadcast[?s, ?k] (reduce[max, ?d] ?x))))",
                                 "(softmax[only(?d)] ?x)",                                            "keeps(?k, ?d, ?x) & is_only(?i, ?d)"),
    ("log-softmax",           R, "(sub ?x (broadcast[?s, ?k] (log (reduce[sum, ?d] (exp ?x)))))",
                                 "(log_softmax[only(?d)] ?x)",                                        "keeps(?k, ?d, ?x)"),
    ("log-softmax-shifted",   R, "(log_softmax[?i] (sub ?x (broadcast[?s, ?k] (reduce[max, ?d] ?x))))",
                                 "(log_softmax[only(?d)] ?x)",                                        "keeps(?k, ?d, ?x) & is_only(?i, ?d)"),
    ("log-softmax-stable",    R, "(sub ?x (broadcast[?s, ?k] (add ?m@(reduce[max, ?d] ?x) (log (reduce[sum, ?d] (exp (sub ?x (broadcast[?s, ?k] ?m))))))))",
                                 "(log_softmax[only(?d)] ?x)",                                        "keeps(?k, ?d, ?x)"),
    ("log-of-softmax",        R, "(log (softmax[?i] ?x))",                                            "(log_softmax[?i] ?x)",                  ""),
    ("exp-of-log-softmax",    R, "(exp (log_softmax[?i] ?x))",                                        "(softmax[?i] ?x)",                      ""),
    ("softmax-grad",          R, "(mul ?y (sub ?g (broadcast[?s, ?k] (reduce[sum, ?d] (mul ?g ?y)))))",
                                 "(softmax_grad[only(?d)] ?y ?g)",                                    "keeps(?k, ?d, ?y) & float(?y)"),
    ("softmax-grad-quotient", R, "(mul ?e (sub ?h@(div ?g ?t@(broadcast[?s, ?k] ?z)) (broadcast[?s, ?k] (reduce[sum, ?d] (mul ?h ?y@(div ?e ?t))))))",
                                 "(softmax_grad[only(?d)] ?y ?g)",                                    "keeps(?k, ?d, ?y) & float(?y)"),
    ("log-softmax-grad",      R, "(sub ?g (mul (exp ?y) (broadcast[?s, ?k] (reduce[sum, ?d] ?g))))",
                                 "(log_softmax_grad[only(?d)] ?y ?g)",                                "keeps(?k, ?d, ?y)"),
    ("log-softmax-grad-softmax", R, "(sub ?g (mul (softmax[?i] ?x) (broadcast[?s, ?k] (reduce[sum, ?d] ?g))))",
                                 "(log_softmax_grad[only(?d)] (log_softmax[?i] ?x) ?g)",              "keeps(?k, ?d, ?x)"),
    ("log-softmax-grad-quotient", R, "(sub ?g (mul ?e@(exp ?x) (broadcast[?s, ?k] (div (reduce[sum, ?d] ?g) (reduce[sum, ?d] ?e)))))",
                                 "(log_softmax_grad[only(?d)] (log_softmax[only(?d)] ?x) ?g)",        "keeps(?k, ?d, ?x)"),
    // A difference of softmax gradients: what the row maximum would pass on is zero.
    ("softmax-grad-sums-to-zero", A, "(reduce[sum, ?d] (softmax_grad[?i] (softmax[?i] ?x) ?g))",      "0",                                     "is_only(?i, ?d)"),
    // Normalizations.
    ("layer-norm",            R, "(add (mul (mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) (broadcast[?s, ?k] (rsqrt (add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e)))) (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?d] ?beta))",
                                 "(layer_norm[count(?d), value(#e)] ?x ?gamma ?beta)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & row(?beta, ?d, ?x) & positive(#e)"),
    ("rms-norm",              R, "(mul (mul ?x (broadcast[?s, ?k] (rsqrt (add (mul (reduce[sum, ?d] (mul ?x ?x)) #n) #e)))) (broadcast[?s, ?d] ?gamma))",
                                 "(rms_norm[count(?d), value(#e)] ?x ?gamma)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("layer-norm-grad",       R, "(mul ?r@(broadcast[?s, ?k] (rsqrt (add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e))) (sub (sub ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?g) #n))) (mul ?h@(mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) ?r) (broadcast[?s, ?k] (mul (reduce[sum, ?d] (mul ?g ?h)) #n)))))",
                                 "(layer_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("rms-norm-grad",         R, "(mul ?r@(broadcast[?s, ?k] (rsqrt (add (mul (reduce[sum, ?d] (mul ?x ?x)) #n) #e))) (sub ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)) (mul ?h@(mul ?x ?r) (broadcast[?s, ?k] (mul (reduce[sum, ?d] (mul ?g ?h)) #n)))))",
                                 "(rms_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
];
