//! Special functions in f64: what the scalar table has beyond the elementary functions.
//!
//! They are slow and clear: series, continued fractions and asymptotic expansions with as many terms as f64 needs. Formulas are those of
//! the NIST Digital Library of Mathematical Functions, chapters 5 (gamma), 7 (error), 10 (Bessel) and 25 (zeta).

use std::f64::consts::{FRAC_2_SQRT_PI, PI};

/// The error function: a Taylor series near zero, erfc beyond; absolute error below 1e-15.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if x.is_nan() {
        return x;
    }
    if a < 3.0 {
        // Σ (−1)ⁿ x²ⁿ⁺¹ / (n! (2n+1)), in the all-positive form 2/√π e^{−x²} Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!.
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term > sum * 1e-17 {
            n += 1.0;
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
        }
        return (sum * (-a * a).exp() * FRAC_2_SQRT_PI).copysign(x);
    }
    (1.0 - erfc(a)).copysign(x)
}

/// 1 − erf x, with a small relative error also where it is tiny.
pub fn erfc(x: f64) -> f64 {
    if x < 1.0 || x.is_nan() {
        return 1.0 - erf(x);
    }
    if x > 28.0 {
        return 0.0;
    }
    // e^{−x²}/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …)))), evaluated from the tail.
    let terms = 25 + (200.0 / (x * x)) as u32;
    let mut f = x;
    for k in (1..terms).rev() {
        f = x + f64::from(k) / 2.0 / f;
    }
    let square = x * x;
    let lost = x.mul_add(x, -square);
    (-square).exp() * (1.0 - lost) / (f * PI.sqrt())
}

/// The y with erf y = x.
pub fn erf_inv(x: f64) -> f64 {
    let a = x.abs();
    if a >= 1.0 || x.is_nan() {
        return if a == 1.0 { f64::INFINITY.copysign(x) } else { f64::NAN };
    }
    if a < 1e-9 {
        return x / FRAC_2_SQRT_PI;
    }
    // The complement is exact where it matters; the start solves the leading terms of both asymptotic expansions (Winitzki 2008).
    let q = 1.0 - a;
    let l = ((1.0 - a) * (1.0 + a)).ln();
    let b = 2.0 / (PI * 0.147) + l / 2.0;
    let mut y = ((b * b - l / 0.147).sqrt() - b).max(0.0).sqrt();
    // Halley's method on erf for small arguments, else on erfc.
    for _ in 0..4 {
        let miss = if a < 0.5 { erf(y) - a } else { q - erfc(y) };
        let step = miss / (FRAC_2_SQRT_PI * (-y * y).exp());
        y -= step / (1.0 + y * step);
    }
    y.copysign(x)
}

/// ζ(k) − 1 for k = 2, 3, …
const ZETA_MINUS_1: [f64; 30] = [
    0.644934066848226436,
    0.202056903159594285,
    0.0823232337111381915,
    0.0369277551433699263,
    0.0173430619844491397,
    0.00834927738192282684,
    0.00407735619794433938,
    0.00200839282608221442,
    0.000994575127818085337,
    0.000494188604119464559,
    0.000246086553308048299,
    0.000122713347578489147,
    0.0000612481350587048293,
    0.0000305882363070204936,
    0.0000152822594086518717,
    7.63719763789976227e-6,
    3.81729326499983986e-6,
    1.90821271655393893e-6,
    9.53962033872796113e-7,
    4.76932986787806463e-7,
    2.3845050272773299e-7,
    1.19219925965311073e-7,
    5.96081890512594796e-8,
    2.98035035146522802e-8,
    1.49015548283650412e-8,
    7.45071178983542949e-9,
    3.72533402478845705e-9,
    1.86265972351304901e-9,
    9.31327432419668183e-10,
    4.65662906503378407e-10,
];

/// ln Γ(2 + z) for |z| ≤ ½.
fn lgamma_near_2(z: f64) -> f64 {
    const ONE_MINUS_EULER: f64 = 0.422784335098467139;
    let mut sum = 0.0;
    for (i, c) in ZETA_MINUS_1.iter().enumerate().rev() {
        let k = i as f64 + 2.0;
        sum = sum * -z + c / k;
    }
    z * (ONE_MINUS_EULER + z * sum)
}

/// B₂ₖ for k = 1, 2, …
const BERNOULLI: [f64; 12] = [
    1.0 / 6.0,
    -1.0 / 30.0,
    1.0 / 42.0,
    -1.0 / 30.0,
    5.0 / 66.0,
    -691.0 / 2730.0,
    7.0 / 6.0,
    -3617.0 / 510.0,
    43867.0 / 798.0,
    -174611.0 / 330.0,
    854513.0 / 138.0,
    -236364091.0 / 2730.0,
];

/// sin πx, exact at integers.
fn sin_pi(x: f64) -> f64 {
    let r = x - 2.0 * (x / 2.0).round();
    if r.abs() <= 0.25 {
        (PI * r).sin()
    } else if r.abs() <= 0.75 {
        (PI * (0.5 - r.abs())).cos().copysign(r)
    } else {
        (PI * (1.0 - r.abs())).sin().copysign(r)
    }
}

/// ln |Γ(x)|.
pub fn lgamma(x: f64) -> f64 {
    if x.is_nan() || x.is_infinite() {
        return x.abs();
    }
    if x < 0.5 {
        if x <= 0.0 && x == x.floor() {
            return f64::INFINITY;
        }
        // Below ½ the reflection; between −0.5 and 0.5 one step of the recurrence keeps more digits.
        return if x > -0.5 { lgamma(x + 1.0) - x.abs().ln() } else { (PI / sin_pi(x).abs()).ln() - lgamma(1.0 - x) };
    }
    if x < 1.5 {
        return lgamma_near_2(x - 1.0) - (x - 1.0).ln_1p();
    }
    if x < 2.5 {
        return lgamma_near_2(x - 2.0);
    }
    if x < 12.0 {
        let (mut y, mut product) = (x, 1.0);
        while y >= 2.5 {
            y -= 1.0;
            product *= y;
        }
        return product.ln() + lgamma_near_2(y - 2.0);
    }
    // Stirling's series.
    let r = 1.0 / (x * x);
    let mut sum = 0.0;
    for (i, b) in BERNOULLI.iter().enumerate().take(8).rev() {
        let k = 2.0 * i as f64 + 2.0;
        sum = sum * r + b / (k * (k - 1.0));
    }
    (x - 0.5) * x.ln() - x + 0.918938533204672742 + sum / x
}

/// The derivative of ln Γ. NaN at zero and the negative integers.
pub fn digamma(x: f64) -> f64 {
    if x == f64::INFINITY || x.is_nan() {
        return x;
    }
    if x <= 0.0 {
        if x == x.floor() {
            return f64::NAN;
        }
        // cot πx from the distance to the nearest integer.
        let r = x - x.round();
        return digamma(1.0 - x) - PI / (PI * r).tan();
    }
    let (mut y, mut shift) = (x, 0.0);
    while y < 12.0 {
        shift += 1.0 / y;
        y += 1.0;
    }
    let r = 1.0 / (y * y);
    let mut sum = 0.0;
    for (i, b) in BERNOULLI.iter().enumerate().take(9).rev() {
        sum = (sum + b / (2.0 * i as f64 + 2.0)) * r;
    }
    y.ln() - 0.5 / y - sum - shift
}

/// Hurwitz's zeta function Σ (q + n)⁻ˢ by the Euler–Maclaurin formula: infinite at s = 1, NaN for s < 1. For q ≤ 0 it is infinite at
/// integers and NaN when s is no integer (or q is below −10⁵, where the sum would take forever).
pub fn zeta(s: f64, q: f64) -> f64 {
    if s.is_nan() || q.is_nan() || s < 1.0 {
        return f64::NAN;
    }
    if s == 1.0 {
        return f64::INFINITY;
    }
    if q <= 0.0 {
        if q == q.floor() {
            return f64::INFINITY;
        }
        if s != s.floor() || q < -1e5 {
            return f64::NAN;
        }
    }
    if q == f64::INFINITY || s == f64::INFINITY {
        return if s == f64::INFINITY && q < 1.0 { f64::INFINITY } else { f64::from(u8::from(q == 1.0)) };
    }
    let power = |a: f64| if s == s.floor() && s < 1e6 { a.powi(-(s as i32)) } else { a.powf(-s) };
    let (mut a, mut sum) = (q, 0.0);
    while a < 12.0 {
        let term = power(a);
        sum += term;
        a += 1.0;
        if a > 1.0 && term < sum * 1e-18 {
            return sum;
        }
    }
    let p = power(a);
    sum += p * (a / (s - 1.0) + 0.5);
    // Σ B₂ₖ / (2k)! · s (s+1) … (s+2k−2) / a^{s+2k−1}
    let mut factor = p * s / a;
    for (i, b) in BERNOULLI.iter().enumerate() {
        let k = 2.0 * i as f64 + 2.0;
        let term = b * factor / 2.0;
        sum += term;
        if term.abs() < sum.abs() * 1e-18 {
            break;
        }
        factor *= (s + k - 1.0) * (s + k) / (a * a) / ((k + 1.0) * (k + 2.0));
    }
    sum
}

/// e^{−|x|} Iᵥ(x) of order 0 or 1.
fn bessel_scaled(order: i32, x: f64) -> f64 {
    let a = x.abs();
    let v = if a == f64::INFINITY {
        0.0
    } else if a < 22.0 {
        // Σ (a²/4)ᵏ / (k! (k + v)!), all terms positive.
        let (mut term, mut sum, mut k) = (if order == 0 { 1.0 } else { a / 2.0 }, 0.0, 0.0);
        while term > sum * 1e-18 {
            sum += term;
            k += 1.0;
            term *= a * a / 4.0 / (k * (k + f64::from(order)));
        }
        sum * (-a).exp()
    } else {
        // Hankel's expansion.
        let mu = f64::from(4 * order * order);
        let (mut term, mut sum, mut k) = (1.0f64, 1.0, 0.0);
        while k < 40.0 && term.abs() > 1e-18 {
            k += 1.0;
            let odd = 2.0 * k - 1.0;
            term *= -(mu - odd * odd) / (k * 8.0 * a);
            sum += term;
        }
        sum / (2.0 * PI * a).sqrt()
    };
    if order == 1 { v.copysign(x) } else { v }
}

/// e^{−|x|} I₀(x), the scaled modified Bessel function.
pub fn bessel_i0e(x: f64) -> f64 {
    if x.is_nan() { x } else { bessel_scaled(0, x) }
}

/// e^{−|x|} I₁(x), the scaled modified Bessel function.
pub fn bessel_i1e(x: f64) -> f64 {
    if x.is_nan() { x } else { bessel_scaled(1, x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, f: impl Fn(f64) -> f64, known: &[(f64, f64)], most: f64) {
        for (x, want) in known {
            let got = f(*x);
            let off = (got - want).abs() / want.abs().max(1e-300);
            assert!(off < most || got == *want || (got.is_nan() && want.is_nan()), "{name}({x}) = {got:e}, not {want:e}");
        }
    }

    #[test]
    fn values_are_the_known_ones() {
        check(
            "erf",
            erf,
            &[
                (1e-12, 1.1283791670955126e-12),
                (0.5, 0.52049987781304654),
                (1.0, 0.84270079294971487),
                (-2.0, -0.99532226501895273),
                (2.9, 0.99995890212190054),
                (3.5, 0.99999925690162766),
            ],
            3e-16 * 4.0,
        );
        check(
            "erfc",
            erfc,
            &[
                (-3.0, 1.9999779095030014),
                (0.3, 0.67137324054087258),
                (0.99, 0.1614919304446302),
                (1.0, 0.15729920705028513),
                (1.5, 0.033894853524689273),
                (2.5, 0.00040695201744495894),
                (4.0, 1.5417257900280019e-8),
                (10.0, 2.0884875837625448e-45),
                (26.0, 5.6631924088561428e-296),
            ],
            3e-15,
        );
        check(
            "erf_inv",
            erf_inv,
            &[
                (1e-10, 8.8622692545275805e-11),
                (0.1, 0.088855990494257692),
                (-0.45, -0.42268023864756189),
                (0.5, 0.47693627620446987),
                (0.9, 1.1630871536766742),
                (0.999, 2.3267537655135245),
                (-0.99999999, -4.0522372432687634),
            ],
            3e-15,
        );
        check(
            "lgamma",
            lgamma,
            &[
                (1e-08, 18.420680738180209),
                (0.25, 1.2880225246980775),
                (0.75, 0.20328095143129537),
                (1.0000001, -5.7721558299185071e-8),
                (1.9999999, -4.2278430309861298e-8),
                (2.25, 0.12487171489239659),
                (5.5, 3.9578139676187163),
                (11.9, 17.258477450595522),
                (12.0, 17.502307845873886),
                (150.5, 602.51395487058541),
                (10000000000.0, 220258509288.81058),
            ],
            3e-15,
        );
        check(
            "lgamma",
            lgamma,
            &[
                (-0.25, 1.589575312551186),
                (-0.75, 1.5757045971498584),
                (-1.5, 0.86004701537648101),
                (-3.7, -1.3797399049658245),
                (-20.3, -41.887292480135242),
            ],
            2e-14,
        );
        check(
            "digamma",
            digamma,
            &[
                (1e-06, -1000000.57721402),
                (0.3, -3.5025242222001331),
                (1.0, -0.57721566490153286),
                (2.0, 0.42278433509846714),
                (7.5, 1.9467574842460868),
                (100.0, 4.6001618527380874),
                (-0.5, 0.036489973978576521),
                (-3.3, 3.6203534605921258),
            ],
            1e-14,
        );
        check(
            "|q| zeta(2.0, q)",
            |q| zeta(2.0, q),
            &[(0.1, 101.43329915079275), (1.0, 1.6449340668482264), (3.5, 0.33035775610023486), (50.0, 0.020201333226697126)],
            3e-15,
        );
        check(
            "|q| zeta(3.7, q)",
            |q| zeta(3.7, q),
            &[(0.1, 5012.6659066607414), (1.0, 1.1062882414646792), (3.5, 0.018257559311553306), (50.0, 9.8430215911660081e-6)],
            3e-15,
        );
        check("|q| zeta(3.0, q)", |q| zeta(3.0, q), &[(-0.5, 0.41439832211716), (-2.25, -61.948474887030083)], 3e-15);
        check(
            "bessel_i0e",
            bessel_i0e,
            &[
                (0.0, 1.0),
                (0.5, 0.64503527044915007),
                (-3.0, 0.2430003541618254),
                (15.0, 0.10389953144882272),
                (21.9, 0.085748465538930376),
                (22.1, 0.08535495638436525),
                (300.0, 0.023042558415085462),
            ],
            5e-15,
        );
        check(
            "bessel_i1e",
            bessel_i1e,
            &[
                (1e-05, 4.999950000312499e-6),
                (0.5, 0.1564208031848717),
                (-3.0, -0.19682671329730085),
                (15.0, 0.10037417504516666),
                (21.9, 0.083767288373715785),
                (22.1, 0.08340093783969195),
                (300.0, 0.023004122040268951),
            ],
            5e-15,
        );
    }

    #[test]
    fn ends_and_poles() {
        assert!(erf_inv(1.0) == f64::INFINITY && erf_inv(-1.0) == f64::NEG_INFINITY && erf_inv(1.1).is_nan());
        assert_eq!((lgamma(0.0), lgamma(-3.0), lgamma(f64::NEG_INFINITY)), (f64::INFINITY, f64::INFINITY, f64::INFINITY));
        assert_eq!((lgamma(1.0), lgamma(2.0)), (0.0, 0.0));
        assert!(digamma(0.0).is_nan() && digamma(-2.0).is_nan() && digamma(f64::INFINITY) == f64::INFINITY);
        assert!(zeta(1.0, 2.0) == f64::INFINITY && zeta(0.5, 2.0).is_nan() && zeta(2.0, -3.0) == f64::INFINITY && zeta(2.5, -0.5).is_nan());
        assert_eq!((erfc(40.0), erfc(-40.0), erf(f64::INFINITY)), (0.0, 2.0, 1.0));
        assert_eq!((bessel_i0e(f64::INFINITY), bessel_i1e(f64::NEG_INFINITY)), (0.0, 0.0));
        for f in [erf, erfc, erf_inv, lgamma, digamma, bessel_i0e, bessel_i1e] {
            assert!(f(f64::NAN).is_nan());
        }
    }
}
