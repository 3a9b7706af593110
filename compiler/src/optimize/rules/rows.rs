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
    ("softmax-grad-squares",  R, "(mul ?e (sub (div ?g ?t@(broadcast[?s, ?k] ?z)) (broadcast[?s, ?k] (reduce[sum, ?d] (mul (mul ?g (broadcast[?s, ?k] (div 1 (mul ?z ?z)))) ?e)))))",
                                 "(softmax_grad[only(?d)] (div ?e ?t) ?g)",                           "keeps(?k, ?d, ?e) & float(?e)"),
    ("log-softmax-grad",      R, "(sub ?g (mul (exp ?y) (broadcast[?s, ?k] (reduce[sum, ?d] ?g))))",
                                 "(log_softmax_grad[only(?d)] ?y ?g)",                                "keeps(?k, ?d, ?y)"),
    ("log-softmax-grad-softmax", R, "(sub ?g (mul (softmax[?i] ?x) (broadcast[?s, ?k] (reduce[sum, ?d] ?g))))",
                                 "(log_softmax_grad[only(?d)] (log_softmax[?i] ?x) ?g)",              "keeps(?k, ?d, ?x)"),
    ("log-softmax-grad-quotient", R, "(sub ?g (mul ?e@(exp ?x) (broadcast[?s, ?k] (div (reduce[sum, ?d] ?g) (reduce[sum, ?d] ?e)))))",
                                 "(log_softmax_grad[only(?d)] (log_softmax[only(?d)] ?x) ?g)",        "keeps(?k, ?d, ?x)"),
    // A difference of softmax gradients: what the row maximum would pass on is zero.
    ("softmax-grad-sums-to-zero", A, "(reduce[sum, ?d] (softmax_grad[?i] (softmax[?i] ?x) ?g))",      "0",                                     "is_only(?i, ?d)"),
    // Normalizations.
    // The mean of squares minus the squared mean, held at zero against rounding: the variance.
    ("variance",              R, "(max (sub (mul (reduce[sum, ?d] (mul ?x ?x)) #n) (mul ?m@(mul (reduce[sum, ?d] ?x) #n) ?m)) 0)",
                                 "(mul (reduce[sum, ?d] (mul (sub ?x (broadcast[shape(?x), others(?d, ?x)] ?m)) (sub ?x (broadcast[shape(?x), others(?d, ?x)] ?m)))) value(#n))",
                                 "float(?x) & mean(#n, ?d, ?x)"),
    ("layer-norm",            R, "(add (mul (mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) (broadcast[?s, ?k] (rsqrt (add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e)))) (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?d] ?beta))",
                                 "(layer_norm[count(?d), value(#e)] ?x ?gamma ?beta)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & row(?beta, ?d, ?x) & positive(#e)"),
    ("layer-norm-scaled",     R, "(add (mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) (mul (broadcast[?s, ?k] (rsqrt (add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e))) (broadcast[?s, ?d] ?gamma))) (broadcast[?s, ?d] ?beta))",
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
    // As transposed summand by summand, through the root's derivative -r/2v; `-added`: onto what a residual connection brought before.
    ("layer-norm-grad-sums",  R, "(add (add ?p@(mul ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?k] ?r@(rsqrt ?v@(add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e)))) ?q@(mul (mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) 2) (broadcast[?s, ?k] (mul (mul (mul (reduce[sum, ?d] (mul ?c ?g)) (div ?r ?v)) ~-0.5) #n)))) (broadcast[?s, ?k] (mul (add (reduce[sum, ?d] (neg ?p)) (reduce[sum, ?d] (neg ?q))) #n)))",
                                 "(layer_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("layer-norm-grad-added", R, "(add (add (add ?a ?p@(mul ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?k] ?r@(rsqrt ?v@(add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e))))) ?q@(mul (mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) 2) (broadcast[?s, ?k] (mul (mul (mul (reduce[sum, ?d] (mul ?c ?g)) (div ?r ?v)) ~-0.5) #n)))) (broadcast[?s, ?k] (mul (add (reduce[sum, ?d] (neg ?p)) (reduce[sum, ?d] (neg ?q))) #n)))",
                                 "(add ?a (layer_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy))",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("layer-norm-grad-added-last", R, "(add (add (add ?a ?q@(mul (mul ?c@(sub ?x (broadcast[?s, ?k] (mul (reduce[sum, ?d] ?x) #n))) 2) (broadcast[?s, ?k] (mul (mul (mul (reduce[sum, ?d] (mul ?c ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)))) (div ?r@(rsqrt ?v@(add (mul (reduce[sum, ?d] (mul ?c ?c)) #n) #e)) ?v)) ~-0.5) #n)))) ?p@(mul ?g (broadcast[?s, ?k] ?r))) (broadcast[?s, ?k] (mul (add (reduce[sum, ?d] (neg ?p)) (reduce[sum, ?d] (neg ?q))) #n)))",
                                 "(add ?a (layer_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy))",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("rms-norm-grad-sums",    R, "(add (add (mul ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?k] ?r@(rsqrt ?v@(add (mul (reduce[sum, ?d] (mul ?x ?x)) #n) #e)))) ?w@(mul ?x (broadcast[?s, ?k] (mul (mul (mul (reduce[sum, ?d] (mul ?x ?g)) (div ?r ?v)) ~-0.5) #n)))) ?w)",
                                 "(rms_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("rms-norm-grad-added",   R, "(add (add (add ?a (mul ?g@(mul ?dy (broadcast[?s, ?d] ?gamma)) (broadcast[?s, ?k] ?r@(rsqrt ?v@(add (mul (reduce[sum, ?d] (mul ?x ?x)) #n) #e))))) ?w@(mul ?x (broadcast[?s, ?k] (mul (mul (mul (reduce[sum, ?d] (mul ?x ?g)) (div ?r ?v)) ~-0.5) #n)))) ?w)",
                                 "(add ?a (rms_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy))",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    // The same of the variance as `variance` has it. Where it is zero, so is what its gradient goes to, whatever the selections say.
    ("layer-norm-grad-squares", R, "(add (add ?p@(mul (mul (broadcast[?s, ?k] ?r@(rsqrt ?v@(add ?u@(max ?w@(sub (mul (reduce[sum, ?d] (mul ?x ?x)) #n) (mul ?m@(mul (reduce[sum, ?d] ?x) #n) ?m)) 0) #e))) (broadcast[?s, ?d] ?gamma)) ?dy) (broadcast[?s, ?k] (mul (add (reduce[sum, ?d] (neg ?p)) (mul (mul ?m 2) (neg ?t@(mul (div (select (eq ?w ?u) 1 0) (select (eq ?u 0) 2 1)) (mul (reduce[sum, ?d] (mul (broadcast[?s, ?d] ?gamma) (mul (sub ?x (broadcast[?s, ?k] ?m)) ?dy))) (mul (div ?r ?v) ~-0.5)))))) #n))) (mul (mul ?x 2) (broadcast[?s, ?k] (mul ?t #n))))",
                                 "(layer_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy)",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
    ("layer-norm-grad-squares-added", R, "(add (add (add ?a ?p@(mul (mul (broadcast[?s, ?k] ?r@(rsqrt ?v@(add ?u@(max ?w@(sub (mul (reduce[sum, ?d] (mul ?x ?x)) #n) (mul ?m@(mul (reduce[sum, ?d] ?x) #n) ?m)) 0) #e))) (broadcast[?s, ?d] ?gamma)) ?dy)) (broadcast[?s, ?k] (mul (add (reduce[sum, ?d] (neg ?p)) (mul (mul ?m 2) (neg ?t@(mul (div (select (eq ?w ?u) 1 0) (select (eq ?u 0) 2 1)) (mul (reduce[sum, ?d] (mul (broadcast[?s, ?d] ?gamma) (mul (sub ?x (broadcast[?s, ?k] ?m)) ?dy))) (mul (div ?r ?v) ~-0.5)))))) #n))) (mul (mul ?x 2) (broadcast[?s, ?k] (mul ?t #n))))",
                                 "(add ?a (layer_norm_grad[count(?d), value(#e)] ?x ?gamma ?dy))",
                                 "keeps(?k, ?d, ?x) & trailing(?d, ?x) & mean(#n, ?d, ?x) & row(?gamma, ?d, ?x) & positive(#e)"),
];
