//! Elementary functions of f32 as straight-line code that the compiler can vectorize.
//!
//! Every function is a fixed sequence of IEEE operations (with fused multiply-add where written), so all instruction sets give the same
//! bits. The hot ones stay in f32; the others compute in f64 and round once. Bounds in ulp against the exact value, tested on dense
//! samples: `expm1`, `log1p`, `pow`, `sin`, `cos`, `erfc`, `erf_inv` 1; `exp`, `log`, `tanh`, `erf`, `logistic`, `rsqrt` 2.
//! [`crate::jit`] has the f32 ones as vector code, operation by operation: a change here is a change there.
//! Coefficients are Chebyshev interpolants of the remainder functions named beside them.

/// 1.5 · 2²³: adding it rounds to an integer and leaves that integer in the low bits.
const ROUND: f32 = 12_582_912.0;
/// The same for f64: 1.5 · 2⁵².
const ROUND_D: f64 = 6_755_399_441_055_744.0;

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// eˣ.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let y = if x > 89.0 { 89.0 } else { x };
    let y = if y < -105.0 { -105.0 } else { y };
    let t = y.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = t.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let k = t - ROUND;
    let r = k.mul_add(-std::f32::consts::LN_2, y);
    let r = k.mul_add(1.904_654_3e-9, r);
    // (eʳ − 1 − r) / r² on |r| ≤ ln 2 / 2.
    let q = 0.001_392_620_4f32.mul_add(r, 0.008_363_195);
    let q = q.mul_add(r, 0.041_666_556);
    let q = q.mul_add(r, 0.166_665_76);
    let q = q.mul_add(r, 0.5);
    let p = 1.0 + (r * r).mul_add(q, r);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// ln x.
#[inline(always)]
pub(crate) fn log(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let y = if tiny { x * 8_388_608.0 } else { x };
    let bias = if tiny { 23.0 } else { 0.0 };
    let bits = y.to_bits() as i32;
    let e = bits.wrapping_sub(0x3f35_04f3) >> 23;
    let f = f32::from_bits(bits.wrapping_sub(e << 23) as u32) - 1.0;
    let k = e as f32 - bias;
    // (ln(1 + f) − f + f²/2) / f³ on [√½ − 1, √2 − 1].
    let g = 0.069_716_12f32.mul_add(f, -0.114_797_34);
    let g = g.mul_add(f, 0.116_854_2);
    let g = g.mul_add(f, -0.124_256_87);
    let g = g.mul_add(f, 0.142_490_58);
    let g = g.mul_add(f, -0.166_678_03);
    let g = g.mul_add(f, 0.200_007_16);
    let g = g.mul_add(f, -0.249_999_97);
    let g = g.mul_add(f, 0.333_333_3);
    let square = f * f;
    let r = square * f * g;
    let r = k.mul_add(-2.121_944_4e-4, r);
    let r = square.mul_add(-0.5, r);
    let r = k.mul_add(0.693_359_4, f + r);
    let r = if x == f32::INFINITY { x } else { r };
    let r = if x > 0.0 { r } else { f32::NAN };
    if x == 0.0 { f32::NEG_INFINITY } else { r }
}

/// tanh x.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let (a, t) = (x.abs(), x * x);
    // (tanh √t / √t − 1) / t on [0, 0.4].
    let g = (-0.006_045_165f32).mul_add(t, 0.020_961_33);
    let g = g.mul_add(t, -0.053_843_264);
    let g = g.mul_add(t, 0.133_327_19);
    let g = g.mul_add(t, -0.333_333_28);
    let small = (x * t).mul_add(g, x);
    let large = (1.0 - 2.0 / (exp(a + a) + 1.0)).copysign(x);
    if a < 0.625 { small } else { large }
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn logistic(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    let d = 1.0 + e;
    let y = numerator / d;
    // What rounding the sum and the quotient lost, over d: 1/d is y or 1 − y.
    let lost = y.mul_add(-(e - (d - 1.0)), (-y).mul_add(d, numerator));
    let inverse = if x < 0.0 { 1.0 - y } else { y };
    lost.mul_add(inverse, y)
}

/// The error function.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let (a, t) = (x.abs(), x * x);
    // erf √t / √t − 1 on [0, 1].
    let g = 7.875_875e-5f32.mul_add(t, -0.000_801_686_43);
    let g = g.mul_add(t, 0.005_189_087);
    let g = g.mul_add(t, -0.026_854_211);
    let g = g.mul_add(t, 0.112_835_944);
    let g = g.mul_add(t, -0.376_126_26);
    let g = g.mul_add(t, 0.128_379_17);
    let small = x.mul_add(g, x);
    // ln erfc(1 + s) on [0, 3]; beyond, erf rounds to 1.
    let s = if a > 4.0 { 3.0 } else { a - 1.0 };
    let p = 1.637_151_4e-6f32.mul_add(s, -3.296_083e-5);
    let p = p.mul_add(s, 0.000_320_239_57);
    let p = p.mul_add(s, -0.002_054_300_9);
    let p = p.mul_add(s, 0.010_077_808);
    let p = p.mul_add(s, -0.041_575_74);
    let p = p.mul_add(s, -0.843_104_7);
    let p = p.mul_add(s, -2.638_967_8);
    let p = p.mul_add(s, -1.849_605_6);
    let large = (1.0 - exp(p)).copysign(x);
    if a < 1.0 { small } else { large }
}

/// 1/√x.
#[inline(always)]
pub(crate) fn rsqrt(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// The nearest integer, ties away from zero.
#[inline(always)]
pub(crate) fn round_away(x: f32) -> f32 {
    let t = x.trunc();
    if (x - t).abs() >= 0.5 { t + 1f32.copysign(x) } else { t }
}

/// (2ⁿ, eʳ − 1) with x = n ln 2 + r, for |x| ≤ 700; relative error 1e-11.
#[inline(always)]
fn exp_parts(x: f64) -> (f64, f64) {
    let t = x.mul_add(std::f64::consts::LOG2_E, ROUND_D);
    let n = t.to_bits().wrapping_sub(ROUND_D.to_bits());
    let k = t - ROUND_D;
    let r = k.mul_add(-std::f64::consts::LN_2, x);
    let q = (1.0 / 3_628_800.0f64).mul_add(r, 1.0 / 362_880.0);
    let q = q.mul_add(r, 1.0 / 40_320.0);
    let q = q.mul_add(r, 1.0 / 5_040.0);
    let q = q.mul_add(r, 1.0 / 720.0);
    let q = q.mul_add(r, 1.0 / 120.0);
    let q = q.mul_add(r, 1.0 / 24.0);
    let q = q.mul_add(r, 1.0 / 6.0);
    let q = q.mul_add(r, 0.5);
    (f64::from_bits(n.wrapping_add(1023) << 52), (r * r).mul_add(q, r))
}

/// ln x for positive normal x; relative error 1e-10.
#[inline(always)]
fn log_wide(x: f64) -> f64 {
    let bits = x.to_bits() as i64;
    let e = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd) >> 52;
    let m = f64::from_bits(bits.wrapping_sub(e << 52) as u64);
    let k = f64::from_bits(ROUND_D.to_bits().wrapping_add(e as u64)) - ROUND_D;
    let s = (m - 1.0) / (m + 1.0);
    let t = s * s;
    let q = (1.0 / 13.0f64).mul_add(t, 1.0 / 11.0);
    let q = q.mul_add(t, 1.0 / 9.0);
    let q = q.mul_add(t, 1.0 / 7.0);
    let q = q.mul_add(t, 1.0 / 5.0);
    let q = q.mul_add(t, 1.0 / 3.0);
    let q = q.mul_add(t, 1.0);
    k.mul_add(std::f64::consts::LN_2, 2.0 * s * q)
}

/// eˣ − 1.
#[inline(always)]
pub(crate) fn expm1(x: f32) -> f32 {
    let y = if x > 89.5 { 89.5 } else { x };
    let y = if y < -60.0 { -60.0 } else { y };
    let (scale, e) = exp_parts(f64::from(y));
    let r = scale.mul_add(e, scale - 1.0) as f32;
    if x == 0.0 { x } else { r }
}

/// ln(1 + x).
#[inline(always)]
pub(crate) fn log1p(x: f32) -> f32 {
    let y = f64::from(x);
    let u = 1.0 + y;
    let r = (log_wide(u) + (y - (u - 1.0)) / u) as f32;
    let r = if x > -1.0 { r } else { f32::NAN };
    let r = if x == -1.0 { f32::NEG_INFINITY } else { r };
    if x == 0.0 || x == f32::INFINITY { x } else { r }
}

/// 1 − erf x.
#[inline(always)]
pub(crate) fn erfc(x: f32) -> f32 {
    let a = f64::from(x).abs();
    let a = if a > 10.6 { 10.6 } else { a };
    let t = (a - 2.0) / (a + 2.0);
    // e^{a²} erfc a on [0, 10.6]; beyond, erfc rounds to 0.
    let p = 1.168_158_946_316_406e-6f64.mul_add(t, 1.427_441_859_410_766_7e-6);
    let p = p.mul_add(t, -1.069_295_066_813_595_6e-5);
    let p = p.mul_add(t, -2.632_774_899_005_655e-5);
    let p = p.mul_add(t, 2.571_274_627_988_709_7e-5);
    let p = p.mul_add(t, 1.733_741_283_552_698e-4);
    let p = p.mul_add(t, 4.406_946_324_648_731e-5);
    let p = p.mul_add(t, -9.816_547_870_974_5e-4);
    let p = p.mul_add(t, -8.472_197_318_684_303e-4);
    let p = p.mul_add(t, 6.997_412_375_861_036_5e-3);
    let p = p.mul_add(t, 3.732_898_062_197_739_3e-3);
    let p = p.mul_add(t, -7.897_857_780_948_664e-2);
    let p = p.mul_add(t, 0.241_658_194_070_608_54);
    let p = p.mul_add(t, -0.427_185_847_472_512_5);
    let p = p.mul_add(t, 0.255_395_676_311_494_1);
    let (scale, e) = exp_parts(-a * a);
    let r = scale.mul_add(e, scale) * p;
    (if x < 0.0 { 2.0 - r } else { r }) as f32
}

/// The inverse of the error function.
#[inline(always)]
pub(crate) fn erf_inv(x: f32) -> f32 {
    let y = f64::from(x);
    let w = -log_wide((1.0 - y) * (1.0 + y));
    // y / x by w = −ln(1 − x²): on [0, 5] around 2.5, and by √w − 3 up to 16.8, where x is the last number before 1.
    let s = w - 2.5;
    let p = 1.234_657_711_450_257_3e-10f64.mul_add(s, 4.340_626_803_853_993e-10);
    let p = p.mul_add(s, -1.086_176_127_159_434_3e-8);
    let p = p.mul_add(s, 1.650_364_404_121_373e-8);
    let p = p.mul_add(s, 4.786_897_084_558_858e-7);
    let p = p.mul_add(s, -3.426_266_209_734_268e-6);
    let p = p.mul_add(s, -4.996_000_110_143_956e-6);
    let p = p.mul_add(s, 2.182_641_252_155_226e-4);
    let p = p.mul_add(s, -1.252_707_957_355_770_6e-3);
    let p = p.mul_add(s, -4.177_325_080_457_763e-3);
    let p = p.mul_add(s, 0.246_640_276_748_584_24);
    let center = p.mul_add(s, 1.501_409_351_748_176_4);
    let s = (if w > 5.0 { w } else { 5.0 }).sqrt() - 3.0;
    let p = (-5.105_907_601_968_395e-6f64).mul_add(s, -2.306_787_471_039_215_6e-5);
    let p = p.mul_add(s, 1.691_409_800_611_144_8e-4);
    let p = p.mul_add(s, -2.882_986_928_279_602_4e-4);
    let p = p.mul_add(s, -1.258_124_363_058_336e-4);
    let p = p.mul_add(s, 1.481_516_202_885_469_7e-3);
    let p = p.mul_add(s, -3.565_128_571_414_653_3e-3);
    let p = p.mul_add(s, 5.686_154_014_080_37e-3);
    let p = p.mul_add(s, -7.643_083_909_409_036e-3);
    let p = p.mul_add(s, 9.445_429_673_006_697e-3);
    let p = p.mul_add(s, 1.001_675_252_945_01);
    let tail = p.mul_add(s, 2.832_976_799_938_906_6);
    let r = (y * if w > 5.0 { tail } else { center }) as f32;
    let r = if x.abs() == 1.0 { f32::INFINITY.copysign(x) } else { r };
    if x.abs() <= 1.0 { r } else { f32::NAN }
}

/// aᵇ.
#[inline(always)]
pub(crate) fn pow(a: f32, b: f32) -> f32 {
    let m = a.abs();
    let l = log_wide(f64::from(m));
    let l = if m == f32::INFINITY { f64::INFINITY } else { l };
    let l = if m == 0.0 { f64::NEG_INFINITY } else { l };
    let z = f64::from(b) * l;
    let z = if z > 120.0 { 120.0 } else { z };
    let z = if z < -120.0 { -120.0 } else { z };
    let (scale, e) = exp_parts(z);
    let r = scale.mul_add(e, scale) as f32;
    let r = if m == 1.0 && !b.is_nan() { 1.0 } else { r };
    let half = b * 0.5;
    let integer = b == b.trunc();
    let odd = integer && half != half.trunc();
    let r = if a.is_sign_negative() && odd { -r } else { r };
    let invalid = a < 0.0 && m < f32::INFINITY && !integer;
    let r = if invalid || a.is_nan() || b.is_nan() { f32::NAN } else { r };
    if b == 0.0 || a == 1.0 { 1.0 } else { r }
}

/// Largest argument of [`sin`] and [`cos`]: beyond, the reduction modulo π/2 loses bits and the engine calls the f64 library.
pub(crate) const TURN_LIMIT: f32 = 1e6;

/// sin(x + turns · π/2), |x| ≤ [`TURN_LIMIT`].
#[inline(always)]
fn sine(x: f32, turns: u64) -> f32 {
    let y = f64::from(x);
    let t = y.mul_add(std::f64::consts::FRAC_2_PI, ROUND_D);
    let quadrant = t.to_bits().wrapping_add(turns);
    let k = t - ROUND_D;
    let r = k.mul_add(-std::f64::consts::FRAC_PI_2, y);
    let r = k.mul_add(-6.123_233_995_736_766e-17, r);
    let u = r * r;
    let s = (-1.0 / 39_916_800.0f64).mul_add(u, 1.0 / 362_880.0);
    let s = s.mul_add(u, -1.0 / 5_040.0);
    let s = s.mul_add(u, 1.0 / 120.0);
    let s = s.mul_add(u, -1.0 / 6.0);
    let s = (r * u).mul_add(s, r);
    let c = (1.0 / 479_001_600.0f64).mul_add(u, -1.0 / 3_628_800.0);
    let c = c.mul_add(u, 1.0 / 40_320.0);
    let c = c.mul_add(u, -1.0 / 720.0);
    let c = c.mul_add(u, 1.0 / 24.0);
    let c = c.mul_add(u, -0.5);
    let c = u.mul_add(c, 1.0);
    let v = if quadrant & 1 == 0 { s } else { c };
    f64::from_bits(v.to_bits() ^ ((quadrant & 2) << 62)) as f32
}

/// sin x, |x| ≤ [`TURN_LIMIT`].
#[inline(always)]
pub(crate) fn sin(x: f32) -> f32 {
    let r = sine(x, 0);
    if x == 0.0 { x } else { r }
}

/// cos x, |x| ≤ [`TURN_LIMIT`].
#[inline(always)]
pub(crate) fn cos(x: f32) -> f32 {
    sine(x, 1)
}
