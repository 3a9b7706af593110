//! Activation functions from their parts, and their gradients. `algebra` gathers known numbers to the right before these match.
//!
//! A gradient has one rule for each way in which a framework differentiates: as a slope, or summand by summand as a transposition leaves it.

use super::Row;
use super::RuleClass::Reassociates as R;

#[rustfmt::skip]
pub(super) const RULES: &[Row] = &[
    ("gelu-erf",        R, "(mul (mul ?x (add (erf (mul ?x ~0.7071067811865476)) 1)) ~0.5)",
                           "(gelu[false] ?x)",                                                          "float(?x)"),
    ("gelu-tanh",       R, "(mul (mul ?x (add (tanh (mul (add ?x (mul (mul (mul ?x ?x) ?x) ~0.044715)) ~0.7978845608028654)) 1)) ~0.5)",
                           "(gelu[true] ?x)",                                                           "float(?x)"),
    ("gelu-erf-grad",   R, "(add (mul (mul ?g (add (erf (mul ?x ~0.7071067811865476)) 1)) ~0.5) (mul (mul (mul ?g ?x) (exp (mul (mul ?x ?x) ~-0.5))) ~0.3989422804014327))",
                           "(gelu_grad[false] ?x ?g)",                                                  "float(?x)"),
    ("gelu-erf-slope",  R, "(mul ?g (add (mul (add (erf (mul ?x ~0.7071067811865476)) 1) ~0.5) (mul ?x (mul (exp (mul (mul ?x ?x) ~-0.5)) ~0.3989422804014327))))",
                           "(gelu_grad[false] ?x ?g)",                                                  "float(?x)"),
    ("gelu-erfc",       R, "(mul (mul ?x (erfc (mul ?x ~-0.7071067811865476))) ~0.5)",
                           "(gelu[false] ?x)",                                                          "float(?x)"),
    ("gelu-erfc-grad",  R, "(add (mul (mul ?g (erfc (mul ?x ~-0.7071067811865476))) ~0.5) (mul (mul (mul ?g ?x) (exp (mul (mul ?x ?x) ~-0.5))) ~0.3989422804014327))",
                           "(gelu_grad[false] ?x ?g)",                                                  "float(?x)"),
    ("gelu-tanh-grad",  R, "(add (add (mul (mul ?g ?p@(add ?t@(tanh (mul (add ?x (mul (mul (mul ?x ?x) ?x) ~0.044715)) ~0.7978845608028654)) 1)) ~0.5) (mul ?w@(mul (mul (mul ?x ?g) (sub 1 ?t)) ?p) ~0.3989422804014327)) (mul (mul ?w (mul ?x ?x)) ~0.05351611220551))",
                           "(gelu_grad[true] ?x ?g)",                                                   "float(?x)"),
    ("silu",            R, "(mul ?x (logistic ?x))",
                           "(silu ?x)",                                                                 "float(?x)"),
    ("silu-quotient",   R, "(div ?x (add (exp (neg ?x)) 1))",
                           "(silu ?x)",                                                                 "float(?x)"),
    ("silu-grad",       R, "(add (mul ?g ?s@(logistic ?x)) (mul (mul ?g ?x) (mul ?s (sub 1 ?s))))",
                           "(silu_grad ?x ?g)",                                                         "float(?x)"),
    ("silu-slope",      R, "(mul (mul ?g ?s@(logistic ?x)) (add (mul ?x (sub 1 ?s)) 1))",
                           "(silu_grad ?x ?g)",                                                         "float(?x)"),
];
