//! The loops of the elementwise engine: one tight loop a function and element type, over slices of one block.

use super::math;
use crate::arch::tier::{Tier, Work};
use crate::lane::{Truth, Value};
use girih_ir::scalar::{BinaryFn, CompareFn, Monoid, UnaryFn};
use girih_ir::types::DType;
use girih_ir::{float, special};

/// An argument: a block of elements, or one element for the whole block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Src<'a, T> {
    /// One element a lane.
    Slice(&'a [T]),
    /// The same element in every lane.
    Splat(T),
}

struct Map1<'a, T, U, F> {
    dst: &'a mut [U],
    a: &'a [T],
    f: F,
}

impl<T: Copy, U, F: Fn(T) -> U> Work for Map1<'_, T, U, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (d, a) in self.dst.iter_mut().zip(self.a) {
            *d = (self.f)(*a);
        }
    }
}

struct Map2<'a, T, U, F> {
    dst: &'a mut [U],
    a: Src<'a, T>,
    b: Src<'a, T>,
    f: F,
}

impl<T: Copy, U: Copy, F: Fn(T, T) -> U> Work for Map2<'_, T, U, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        match (self.a, self.b) {
            (Src::Slice(a), Src::Slice(b)) => {
                for ((d, a), b) in self.dst.iter_mut().zip(a).zip(b) {
                    *d = (self.f)(*a, *b);
                }
            }
            (Src::Slice(a), Src::Splat(b)) => {
                for (d, a) in self.dst.iter_mut().zip(a) {
                    *d = (self.f)(*a, b);
                }
            }
            (Src::Splat(a), Src::Slice(b)) => {
                for (d, b) in self.dst.iter_mut().zip(b) {
                    *d = (self.f)(a, *b);
                }
            }
            (Src::Splat(a), Src::Splat(b)) => self.dst.fill((self.f)(a, b)),
        }
    }
}

struct Choose<'a, T> {
    dst: &'a mut [T],
    c: &'a [Truth],
    a: Src<'a, T>,
    b: Src<'a, T>,
}

impl<T: Copy> Work for Choose<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        let lanes = self.dst.iter_mut().zip(self.c);
        match (self.a, self.b) {
            (Src::Slice(a), Src::Slice(b)) => {
                for ((d, c), (a, b)) in lanes.zip(a.iter().zip(b)) {
                    *d = if c.0 != 0 { *a } else { *b };
                }
            }
            (Src::Slice(a), Src::Splat(b)) => {
                for ((d, c), a) in lanes.zip(a) {
                    *d = if c.0 != 0 { *a } else { b };
                }
            }
            (Src::Splat(a), Src::Slice(b)) => {
                for ((d, c), b) in lanes.zip(b) {
                    *d = if c.0 != 0 { a } else { *b };
                }
            }
            (Src::Splat(a), Src::Splat(b)) => {
                for (d, c) in lanes {
                    *d = if c.0 != 0 { a } else { b };
                }
            }
        }
    }
}

/// Lanes of a row reduction: column `c` is combined into lane `c mod LANES`, in ascending order, then the lanes by halving.
pub(crate) const LANES: usize = 64;

struct Fold<'a, T, F> {
    acc: &'a mut [T; LANES],
    a: &'a [T],
    f: F,
}

#[inline(always)]
fn fold_lanes<T: Copy>(mut acc: [T; LANES], a: &[T], f: &impl Fn(T, T) -> T) -> [T; LANES] {
    let mut chunks = a.chunks_exact(LANES);
    for chunk in &mut chunks {
        for l in 0..LANES {
            acc[l] = f(acc[l], chunk[l]);
        }
    }
    for (acc, a) in acc.iter_mut().zip(chunks.remainder()) {
        *acc = f(*acc, *a);
    }
    acc
}

impl<T: Copy, F: Fn(T, T) -> T> Work for Fold<'_, T, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        *self.acc = fold_lanes(*self.acc, self.a, &self.f);
    }
}

struct FoldRows<'a, T, F> {
    dst: &'a mut [T],
    a: &'a [T],
    columns: usize,
    start: [T; LANES],
    f: F,
}

impl<T: Copy, F: Fn(T, T) -> T> Work for FoldRows<'_, T, F> {
    type Out = ();
    #[inline(always)]
    fn run(self) {
        for (d, row) in self.dst.iter_mut().zip(self.a.chunks_exact(self.columns)) {
            let mut acc = fold_lanes(self.start, row, &self.f);
            // By halving, as `finish` does; lanes that no column fell into are neutral and are left out.
            macro_rules! halve {
                ($($width:literal)*) => {$(
                    if self.columns > $width {
                        for l in 0..$width {
                            acc[l] = (self.f)(acc[l], acc[l + $width]);
                        }
                    }
                )*};
            }
            halve!(32 16 8 4 2 1);
            *d = acc[0];
        }
    }
}

/// Reduces rows of `columns` ≥ 1 elements, one result a row: what [`fold`] and [`finish`] give.
pub(super) fn fold_rows<T: Value>(tier: Tier, monoid: Monoid, dst: &mut [T], a: &[T], columns: usize) {
    let start = [T::identity(monoid); LANES];
    crate::lane::by_monoid!(monoid, T, f => {
        let work = FoldRows { dst, a, columns, start, f };
        if T::HOT { tier.run(work) } else { tier.run_narrow(work) }
    });
}

/// Combines a block, which starts at a column that is a multiple of [`LANES`], into the lanes.
pub(crate) fn fold<T: Value>(tier: Tier, monoid: Monoid, acc: &mut [T; LANES], a: &[T]) {
    crate::lane::by_monoid!(monoid, T, f => if T::HOT { tier.run(Fold { acc, a, f }) } else { tier.run_narrow(Fold { acc, a, f }) });
}

/// Combines the lanes by halving.
pub(crate) fn finish<T: Value>(monoid: Monoid, acc: &[T; LANES]) -> T {
    let mut acc = *acc;
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] = T::combine(monoid, acc[l], acc[l + width]);
        }
        width /= 2;
    }
    acc[0]
}

/// Select by a block of conditions.
pub(super) fn select<T: Value>(tier: Tier, dst: &mut [T], c: &[Truth], a: Src<'_, T>, b: Src<'_, T>) {
    if T::HOT { tier.run(Choose { dst, c, a, b }) } else { tier.run_narrow(Choose { dst, c, a, b }) }
}

/// A comparison of two blocks.
pub(super) fn compare<T: Value>(tier: Tier, f: CompareFn, dst: &mut [Truth], a: Src<'_, T>, b: Src<'_, T>) {
    macro_rules! go {
        ($op:tt) => {{
            let f = |a: T, b: T| Truth(u8::from(a $op b));
            if T::HOT { tier.run(Map2 { dst, a, b, f }) } else { tier.run_narrow(Map2 { dst, a, b, f }) }
        }};
    }
    match f {
        CompareFn::Eq => go!(==),
        CompareFn::Ne => go!(!=),
        CompareFn::Lt => go!(<),
        CompareFn::Le => go!(<=),
        CompareFn::Gt => go!(>),
        CompareFn::Ge => go!(>=),
    }
}

/// Applies `f` to a block, compiled for every instruction set.
pub(super) fn each<T: Copy, U>(tier: Tier, dst: &mut [U], a: &[T], f: impl Fn(T) -> U) {
    tier.run(Map1 { dst, a, f });
}

/// As [`each`], in fewer versions.
pub(super) fn each_narrow<T: Copy, U>(tier: Tier, dst: &mut [U], a: &[T], f: impl Fn(T) -> U) {
    tier.run_narrow(Map1 { dst, a, f });
}

/// The neighbors of elements that are stored as `dtype`.
pub(super) fn next_after(dtype: DType, dst: &mut [f32], a: Src<'_, f32>, b: Src<'_, f32>) {
    Map2 { dst, a, b, f: |a: f32, b: f32| float::next_after(dtype, f64::from(a), f64::from(b)) as f32 }.run();
}

/// Types that the engine computes in.
pub(super) trait Arith: Value {
    /// A function of one argument.
    fn unary(tier: Tier, f: UnaryFn, dst: &mut [Self], a: &[Self]);
    /// A function of two arguments.
    fn binary(tier: Tier, f: BinaryFn, dst: &mut [Self], a: Src<'_, Self>, b: Src<'_, Self>);
    /// One of the `is_*` tests.
    fn test(tier: Tier, f: UnaryFn, dst: &mut [Truth], a: &[Self]);
}

impl Arith for f32 {
    fn unary(tier: Tier, f: UnaryFn, dst: &mut [f32], a: &[f32]) {
        use UnaryFn::*;
        macro_rules! go {
            ($f:expr) => {
                tier.run(Map1 { dst, a, f: $f })
            };
        }
        macro_rules! library {
            ($f:ident) => {
                a.iter().zip(dst).for_each(|(a, d)| *d = f64::from(*a).$f() as f32)
            };
        }
        macro_rules! special {
            ($f:ident) => {
                a.iter().zip(dst).for_each(|(a, d)| *d = special::$f(f64::from(*a)) as f32)
            };
        }
        match f {
            Neg => go!(|x: f32| -x),
            Abs => go!(f32::abs),
            Sign => go!(|x: f32| if x == 0.0 || x.is_nan() { x } else { 1f32.copysign(x) }),
            Floor => go!(f32::floor),
            Ceil => go!(f32::ceil),
            RoundEven => go!(f32::round_ties_even),
            RoundAway => go!(math::round_away),
            Sqrt => go!(f32::sqrt),
            Rsqrt => go!(math::rsqrt),
            Exp => go!(math::exp),
            Expm1 => go!(math::expm1),
            Log => go!(math::log),
            Log1p => go!(math::log1p),
            Tanh => go!(math::tanh),
            Logistic => go!(math::logistic),
            Erf => go!(math::erf),
            Sin | Cos => {
                if f == Sin {
                    tier.run(Map1 { dst: &mut *dst, a, f: math::sin })
                } else {
                    tier.run(Map1 { dst: &mut *dst, a, f: math::cos })
                }
                for (d, x) in dst.iter_mut().zip(a).filter(|(_, x)| x.abs() > math::TURN_LIMIT) {
                    let x = f64::from(*x);
                    *d = if f == Sin { x.sin() } else { x.cos() } as f32;
                }
            }
            Tan => library!(tan),
            Asin => library!(asin),
            Acos => library!(acos),
            Atan => library!(atan),
            Sinh => library!(sinh),
            Cosh => library!(cosh),
            Asinh => library!(asinh),
            Acosh => library!(acosh),
            Atanh => library!(atanh),
            Cbrt => library!(cbrt),
            Erfc => go!(math::erfc),
            ErfInv => go!(math::erf_inv),
            Lgamma => special!(lgamma),
            Digamma => special!(digamma),
            BesselI0e => special!(bessel_i0e),
            BesselI1e => special!(bessel_i1e),
            Not | Popcnt | Clz | IsFinite | IsNan | IsInf => dst.fill(f32::NAN),
        }
    }
    fn binary(tier: Tier, f: BinaryFn, dst: &mut [f32], a: Src<'_, f32>, b: Src<'_, f32>) {
        use BinaryFn::*;
        macro_rules! go {
            ($f:expr) => {
                tier.run(Map2 { dst, a, b, f: $f })
            };
        }
        match f {
            Add => go!(|a: f32, b: f32| a + b),
            Sub => go!(|a: f32, b: f32| a - b),
            Mul => go!(|a: f32, b: f32| a * b),
            Div => go!(|a: f32, b: f32| a / b),
            Max => go!(|a, b| f32::combine(Monoid::Max, a, b)),
            Min => go!(|a, b| f32::combine(Monoid::Min, a, b)),
            Pow => go!(math::pow),
            Rem => Map2 { dst, a, b, f: |a: f32, b: f32| a % b }.run(),
            Atan2 => Map2 { dst, a, b, f: |a: f32, b: f32| f64::from(a).atan2(f64::from(b)) as f32 }.run(),
            Zeta => Map2 { dst, a, b, f: |a: f32, b: f32| special::zeta(f64::from(a), f64::from(b)) as f32 }.run(),
            NextAfter => next_after(DType::F32, dst, a, b),
            And | Or | Xor | Shl | ShrArith | ShrLogical | MulHi => dst.fill(f32::NAN),
        }
    }
    fn test(tier: Tier, f: UnaryFn, dst: &mut [Truth], a: &[f32]) {
        match f {
            UnaryFn::IsFinite => tier.run(Map1 { dst, a, f: |x: f32| Truth(u8::from(x.is_finite())) }),
            UnaryFn::IsNan => tier.run(Map1 { dst, a, f: |x: f32| Truth(u8::from(x.is_nan())) }),
            _ => tier.run(Map1 { dst, a, f: |x: f32| Truth(u8::from(x.is_infinite())) }),
        }
    }
}

impl Arith for f64 {
    fn unary(tier: Tier, f: UnaryFn, dst: &mut [f64], a: &[f64]) {
        use UnaryFn::*;
        macro_rules! go {
            ($f:expr) => {
                tier.run_narrow(Map1 { dst, a, f: $f })
            };
        }
        macro_rules! library {
            ($f:expr) => {
                Map1 { dst, a, f: $f }.run()
            };
        }
        match f {
            Neg => go!(|x: f64| -x),
            Abs => go!(f64::abs),
            Sign => go!(|x: f64| if x == 0.0 || x.is_nan() { x } else { 1f64.copysign(x) }),
            Floor => go!(f64::floor),
            Ceil => go!(f64::ceil),
            RoundEven => go!(f64::round_ties_even),
            RoundAway => library!(f64::round),
            Sqrt => go!(f64::sqrt),
            Rsqrt => go!(|x: f64| 1.0 / x.sqrt()),
            Cbrt => library!(f64::cbrt),
            Exp => library!(f64::exp),
            Expm1 => library!(f64::exp_m1),
            Log => library!(f64::ln),
            Log1p => library!(f64::ln_1p),
            Sin => library!(f64::sin),
            Cos => library!(f64::cos),
            Tan => library!(f64::tan),
            Asin => library!(f64::asin),
            Acos => library!(f64::acos),
            Atan => library!(f64::atan),
            Sinh => library!(f64::sinh),
            Cosh => library!(f64::cosh),
            Asinh => library!(f64::asinh),
            Acosh => library!(f64::acosh),
            Atanh => library!(f64::atanh),
            Tanh => library!(f64::tanh),
            Logistic => library!(|x: f64| 1.0 / (1.0 + (-x).exp())),
            Erf => library!(special::erf),
            Erfc => library!(special::erfc),
            ErfInv => library!(special::erf_inv),
            Lgamma => library!(special::lgamma),
            Digamma => library!(special::digamma),
            BesselI0e => library!(special::bessel_i0e),
            BesselI1e => library!(special::bessel_i1e),
            Not | Popcnt | Clz | IsFinite | IsNan | IsInf => dst.fill(f64::NAN),
        }
    }
    fn binary(tier: Tier, f: BinaryFn, dst: &mut [f64], a: Src<'_, f64>, b: Src<'_, f64>) {
        use BinaryFn::*;
        macro_rules! go {
            ($f:expr) => {
                tier.run_narrow(Map2 { dst, a, b, f: $f })
            };
        }
        match f {
            Add => go!(|a: f64, b: f64| a + b),
            Sub => go!(|a: f64, b: f64| a - b),
            Mul => go!(|a: f64, b: f64| a * b),
            Div => go!(|a: f64, b: f64| a / b),
            Max => go!(|a, b| f64::combine(Monoid::Max, a, b)),
            Min => go!(|a, b| f64::combine(Monoid::Min, a, b)),
            Pow => Map2 { dst, a, b, f: f64::powf }.run(),
            Rem => Map2 { dst, a, b, f: |a: f64, b: f64| a % b }.run(),
            Atan2 => Map2 { dst, a, b, f: f64::atan2 }.run(),
            Zeta => Map2 { dst, a, b, f: special::zeta }.run(),
            NextAfter => Map2 { dst, a, b, f: |a: f64, b: f64| float::next_after(DType::F64, a, b) }.run(),
            And | Or | Xor | Shl | ShrArith | ShrLogical | MulHi => dst.fill(f64::NAN),
        }
    }
    fn test(tier: Tier, f: UnaryFn, dst: &mut [Truth], a: &[f64]) {
        match f {
            UnaryFn::IsFinite => tier.run_narrow(Map1 { dst, a, f: |x: f64| Truth(u8::from(x.is_finite())) }),
            UnaryFn::IsNan => tier.run_narrow(Map1 { dst, a, f: |x: f64| Truth(u8::from(x.is_nan())) }),
            _ => tier.run_narrow(Map1 { dst, a, f: |x: f64| Truth(u8::from(x.is_infinite())) }),
        }
    }
}

macro_rules! integers {
    ($($t:ident as $signed:ident, $unsigned:ident: $abs:expr, $sign:expr, $negative:expr;)*) => {$(
        impl Arith for $t {
            fn unary(tier: Tier, f: UnaryFn, dst: &mut [$t], a: &[$t]) {
                match f {
                    UnaryFn::Neg => tier.run_narrow(Map1 { dst, a, f: $t::wrapping_neg }),
                    UnaryFn::Abs => tier.run_narrow(Map1 { dst, a, f: $abs }),
                    UnaryFn::Sign => tier.run_narrow(Map1 { dst, a, f: $sign }),
                    UnaryFn::Not => tier.run_narrow(Map1 { dst, a, f: |x: $t| !x }),
                    UnaryFn::Popcnt => tier.run_narrow(Map1 { dst, a, f: |x: $t| x.count_ones() as $t }),
                    UnaryFn::Clz => tier.run_narrow(Map1 { dst, a, f: |x: $t| x.leading_zeros() as $t }),
                    _ => dst.copy_from_slice(a),
                }
            }
            fn binary(tier: Tier, f: BinaryFn, dst: &mut [$t], a: Src<'_, $t>, b: Src<'_, $t>) {
                use BinaryFn::*;
                macro_rules! go {
                    ($f:expr) => { tier.run_narrow(Map2 { dst, a, b, f: $f }) };
                }
                macro_rules! plain {
                    ($f:expr) => { Map2 { dst, a, b, f: $f }.run() };
                }
                let all_ones: $t = !0;
                match f {
                    Add => go!($t::wrapping_add),
                    Sub => go!($t::wrapping_sub),
                    Mul => go!($t::wrapping_mul),
                    Div => plain!(|a: $t, b: $t| if b == 0 { all_ones } else { a.wrapping_div(b) }),
                    Rem => plain!(|a: $t, b: $t| if b == 0 { a } else { a.wrapping_rem(b) }),
                    Pow => plain!(|a: $t, b: $t| {
                        let negative: fn($t) -> bool = $negative;
                        if negative(b) {
                            // Only 1 and −1 have integer inverses.
                            return if a == 1 || (a == all_ones && b & 1 == 0) { 1 } else if a == all_ones { all_ones } else { 0 };
                        }
                        let (mut result, mut square, mut left): ($t, $t, $t) = (1, a, b);
                        while left != 0 {
                            if left & 1 == 1 {
                                result = result.wrapping_mul(square);
                            }
                            square = square.wrapping_mul(square);
                            left >>= 1;
                        }
                        result
                    }),
                    Max => go!(|a: $t, b: $t| a.max(b)),
                    Min => go!(|a: $t, b: $t| a.min(b)),
                    And => go!(|a: $t, b: $t| a & b),
                    Or => go!(|a: $t, b: $t| a | b),
                    Xor => go!(|a: $t, b: $t| a ^ b),
                    Shl => go!(|a: $t, b: $t| if (b as $unsigned) < $t::BITS as $unsigned { a.wrapping_shl(b as u32) } else { 0 }),
                    ShrArith => go!(|a: $t, b: $t| {
                        let by = (b as $unsigned).min(($t::BITS - 1) as $unsigned);
                        (a as $signed).wrapping_shr(by as u32) as $t
                    }),
                    ShrLogical => go!(|a: $t, b: $t| if (b as $unsigned) < $t::BITS as $unsigned {
                        (a as $unsigned).wrapping_shr(b as u32) as $t
                    } else {
                        0
                    }),
                    MulHi => go!(|a: $t, b: $t| (i128::from(a).wrapping_mul(i128::from(b)) >> $t::BITS) as $t),
                    Atan2 | NextAfter | Zeta => dst.fill(0),
                }
            }
            fn test(_: Tier, f: UnaryFn, dst: &mut [Truth], _: &[$t]) {
                dst.fill(Truth(u8::from(f == UnaryFn::IsFinite)));
            }
        }
    )*};
}

integers! {
    i8 as i8, u8: i8::wrapping_abs, i8::signum, |b| b < 0;
    i16 as i16, u16: i16::wrapping_abs, i16::signum, |b| b < 0;
    i32 as i32, u32: i32::wrapping_abs, i32::signum, |b| b < 0;
    i64 as i64, u64: i64::wrapping_abs, i64::signum, |b| b < 0;
    u8 as i8, u8: |x: u8| x, |x: u8| u8::from(x != 0), |_| false;
    u16 as i16, u16: |x: u16| x, |x: u16| u16::from(x != 0), |_| false;
    u32 as i32, u32: |x: u32| x, |x: u32| u32::from(x != 0), |_| false;
    u64 as i64, u64: |x: u64| x, |x: u64| u64::from(x != 0), |_| false;
}

impl Arith for Truth {
    fn unary(tier: Tier, f: UnaryFn, dst: &mut [Truth], a: &[Truth]) {
        match f {
            UnaryFn::Not => tier.run_narrow(Map1 { dst, a, f: |x: Truth| Truth(u8::from(x.0 == 0)) }),
            _ => dst.copy_from_slice(a),
        }
    }
    fn binary(tier: Tier, f: BinaryFn, dst: &mut [Truth], a: Src<'_, Truth>, b: Src<'_, Truth>) {
        match f {
            BinaryFn::Add | BinaryFn::Max | BinaryFn::Or => tier.run_narrow(Map2 { dst, a, b, f: |a: Truth, b: Truth| Truth(a.0 | b.0) }),
            BinaryFn::Xor => tier.run_narrow(Map2 { dst, a, b, f: |a: Truth, b: Truth| Truth(a.0 ^ b.0) }),
            _ => tier.run_narrow(Map2 { dst, a, b, f: |a: Truth, b: Truth| Truth(a.0 & b.0) }),
        }
    }
    fn test(_: Tier, _: UnaryFn, dst: &mut [Truth], _: &[Truth]) {
        dst.fill(Truth(0));
    }
}
