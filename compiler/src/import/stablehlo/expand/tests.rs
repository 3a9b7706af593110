//! The expansions against known results.

use super::bits::{bitcast_complex, bitcast_convert, total_order};
use super::fft::{FftKind, fft};
use super::linalg::{Transpose, cholesky, triangular_solve};
use super::ragged::{RaggedDims, RaggedDot, ragged_dot};
use super::random::{Algorithm, RngKind, rng, rng_bit_generator};
use super::{Number, chlo, complex};
use girih_ir::graph::random::Random;
use girih_ir::graph::{Graph, Role, ValueId};
use girih_ir::interp;
use girih_ir::scalar::CompareFn;
use girih_ir::tensor::Tensor;
use girih_ir::types::{DType, TensorType};

/// Builds a graph of these inputs and runs it.
fn run(inputs: &[Tensor], build: impl FnOnce(&mut Graph, &[ValueId]) -> Vec<ValueId>) -> Vec<Tensor> {
    let mut g = Graph::new("expanded");
    let ins: Vec<ValueId> = inputs.iter().enumerate().map(|(i, t)| g.input(format!("x{i}"), t.ty().clone(), Role::Data)).collect();
    for (i, v) in build(&mut g, &ins).into_iter().enumerate() {
        g.output(format!("y{i}"), v);
    }
    interp::eval(&g, inputs).unwrap()
}

fn real(shape: &[usize], v: Vec<f64>) -> Tensor {
    Tensor::new_float(TensorType::new(DType::F64, shape), v)
}

fn ints(dtype: DType, shape: &[usize], v: &[u64]) -> Tensor {
    Tensor::new_int(TensorType::new(dtype, shape), v.iter().map(|v| *v as i64).collect())
}

fn parts(x: Number) -> Vec<ValueId> {
    [x.re].into_iter().chain(x.im).collect()
}

#[track_caller]
fn close(got: &[f64], want: &[f64], most: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= most, "{what}: element {i} is {a:e}, not {b:e}");
    }
}

/// State before, type, shape, state after, bits: what XLA on a CPU makes (JAX 0.10).
#[rustfmt::skip]
const BITS: &[(Algorithm, &[u64], DType, &[usize], &[u64], &[u64])] = &[
    (Algorithm::ThreeFry, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U32, &[], &[0x123456789abcdef, 0xffffffffffffffff], &[0xb0f4215b]),
    (Algorithm::ThreeFry, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U32, &[2, 3], &[0x123456789abcdef, 0x1], &[0xb0f4215b, 0xb3d7494, 0xaaa4d889, 0xe19a60b4, 0xacf8c4dc, 0x6b35c4f4]),
    (Algorithm::ThreeFry, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U32, &[3, 5], &[0x123456789abcdef, 0x7], &[0xb0f4215b, 0xe19a60b4, 0xb3d7494, 0xacf8c4dc, 0xaaa4d889, 0x75a52907, 0xd3dd8613, 0x35d0e5f1, 0x8ed17fe4, 0x7c2f19d8, 0xde79bbbd, 0x1713fd18, 0xb09d029e, 0x7d84f441, 0x6ca3e732]),
    (Algorithm::ThreeFry, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U8, &[5], &[0x123456789abcdef, 0x1], &[0x5b, 0xb4, 0x94, 0xdc, 0x89]),
    (Algorithm::ThreeFry, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U16, &[3, 2], &[0x123456789abcdef, 0x1], &[0x215b, 0x60b4, 0x7494, 0xc4dc, 0xd889, 0xc4f4]),
    (Algorithm::ThreeFry, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U64, &[3], &[0x123456789abcdef, 0x1], &[0xe19a60b4b0f4215b, 0xacf8c4dc0b3d7494, 0x6b35c4f4aaa4d889]),
    (Algorithm::Philox, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U32, &[], &[0x123456789abcdef, 0xffffffffffffffff], &[0xa485194]),
    (Algorithm::Philox, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U32, &[2, 3], &[0x123456789abcdef, 0x0], &[0xa485194, 0x41c5f806, 0xd6822fee, 0x3885a3d4, 0x41eb59f3, 0x307385e0]),
    (Algorithm::Philox, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U32, &[3, 5], &[0x123456789abcdef, 0x2], &[0xa485194, 0x41c5f806, 0xd6822fee, 0x3885a3d4, 0x41eb59f3, 0x307385e0, 0x5b8b3389, 0xa262f67c, 0x7006d264, 0xd71fd4de, 0x3aff468e, 0x40b5f768, 0x34da5d11, 0xa2a4e857, 0xfc81d5f9]),
    (Algorithm::Philox, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U8, &[5], &[0x123456789abcdef, 0x0], &[0x94, 0x6, 0xee, 0xd4, 0xf3]),
    (Algorithm::Philox, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U16, &[3, 2], &[0x123456789abcdef, 0x0], &[0x5194, 0xf806, 0x2fee, 0xa3d4, 0x59f3, 0x85e0]),
    (Algorithm::Philox, &[0x123456789abcdef, 0xfffffffffffffffe], DType::U64, &[3], &[0x123456789abcdef, 0x0], &[0x41c5f8060a485194, 0x3885a3d4d6822fee, 0x307385e041eb59f3]),
];

#[test]
fn random_bits_are_those_of_xla() {
    for (algorithm, state, dtype, shape, after, bits) in BITS {
        let state = ints(DType::U64, &[state.len()], state);
        let got = run(&[state], |g, x| {
            let (state, bits) = rng_bit_generator(g, x[0], *algorithm, *dtype, shape).unwrap();
            vec![state, bits]
        });
        assert_eq!(got[0], ints(DType::U64, &[after.len()], after), "{algorithm:?} {dtype}{shape:?}");
        assert_eq!(got[1], ints(*dtype, shape, bits), "{algorithm:?} {dtype}{shape:?}");
    }
}

#[test]
fn a_philox_state_of_three_words_carries_into_the_last() {
    let state = ints(DType::U64, &[3], &[7, u64::MAX, 5]);
    let got = run(&[state], |g, x| {
        let (state, bits) = rng_bit_generator(g, x[0], Algorithm::Default, DType::F32, &[9]).unwrap();
        vec![state, bits]
    });
    assert_eq!(got[0], ints(DType::U64, &[3], &[7, 2, 6]));
    assert_eq!(got[1].ty(), &TensorType::new(DType::F32, [9]));
    let mut g = Graph::new("wrong");
    let x = g.input("x", TensorType::new(DType::U32, [4]), Role::Data);
    assert_eq!(rng_bit_generator(&mut g, x, Algorithm::ThreeFry, DType::U32, &[2]), None);
}

#[test]
fn stateless_numbers_lie_where_they_should() {
    let scalars = [
        Tensor::scalar_int(DType::I32, -3),
        Tensor::scalar_int(DType::I32, 4),
        Tensor::scalar_float(DType::F32, 2.0),
        Tensor::scalar_float(DType::F32, 3.0),
    ];
    let got = run(&scalars, |g, x| {
        let shape = [4000];
        vec![
            rng(g, RngKind::Uniform, x[0], x[1], &shape, 1).unwrap(),
            rng(g, RngKind::Uniform, x[2], x[3], &shape, 2).unwrap(),
            rng(g, RngKind::Normal, x[2], x[3], &shape, 3).unwrap(),
        ]
    });
    let whole = got[0].ints();
    assert!((-3..4).all(|v| whole.contains(&v)) && whole.iter().all(|v| (-3..4).contains(v)));
    assert!(got[1].floats().iter().all(|v| (2.0..3.0).contains(v)));
    let mean = got[2].floats().iter().sum::<f64>() / 4000.0;
    assert!((mean - 2.0).abs() < 0.2, "{mean}");
}

/// Function and its values at [`POINTS`]; the other operand is 0.5 − 1.25i.
#[allow(clippy::approx_constant)] // logarithms of 1 + i have π/4 in them
#[rustfmt::skip]
const COMPLEX: &[(&str, [(f64, f64); 5])] = &[
    ("exponential", [(-3.5904765855678134, 2.6821660671324891), (0.56660902828640793, 0.47724820079111771), (2.4596018813554966, -0.0024596027012231183), (-0.032542999640154785, 0.037678977574865855), (5773926857998.9303, 8992358290239.9429)]),
    ("exponential_minus_one", [(-4.5904765855678134, 2.6821660671324891), (-0.43339097171359207, 0.47724820079111771), (1.4596018813554966, -0.0024596027012231183), (-1.0325429996401548, 0.037678977574865855), (5773926857997.9303, 8992358290239.9429)]),
    ("log", [(1.0700330817481354, 1.0303768265243125), (-0.27236358772083602, 1.97568811307998), (-0.10535989837425672, -0.001111110653864079), (1.6094379124341004, -2.214297435588181), (3.401752628804169, 0.033320995878247197)]),
    ("log_plus_one", [(1.2628643221541277, 0.78539816339744831), (-0.010101353658759724, 0.78539816339744831), (0.64185402467653072, -0.00052631574087574312), (1.4978661367769955, -2.0344439357957027), (3.4345072253328532, 0.03224688243525392)]),
    ("sqrt", [(1.4858458781822983, 0.84127164085765135), (0.48040467867538032, 0.72855243825904214), (0.94868344445220084, -0.00052704619536047186), (1.0, -2.0), (5.477986036839053, 0.091274420313877544)]),
    ("rsqrt", [(0.50964093169618538, -0.28855379225520807), (0.63080224685985415, -0.9566362181904808), (1.0540920653840873, 0.00058560652224846163), (0.2, 0.4), (0.18249817483405712, -0.0030407918173393193)]),
    ("cbrt", [(1.3451401499219899, 0.48106707227425219), (0.72223392889638434, 0.55886782291625371), (0.965489517045814, -0.00035758857921185987), (1.2649529063577517, -1.1506136983844505), (3.1076159571414156, 0.034517705608434604)]),
    ("sine", [(6.1169280123693125, 0.42797453450615126), (-0.37092780393896438, 0.72470269042328546), (0.78332730129097084, -0.00062161007187233102), (-3.8537380379193773, 27.016813258003934), (-1.5246124657227495, 0.1812764880291758)]),
    ("cosine", [(0.43378099760770311, -6.0350486377665727), (1.1991087510987431, 0.22417681233754294), (0.62161027907567449, 0.00078332704018197485), (-27.034945603074225, -3.8511533348117775), (0.23802242521370496, 1.1611359439917549)]),
    ("tan", [(0.001927343523745636, 1.0134287782038935), (-0.18971709151908692, 0.63983593026318), (1.2601549562698215, -0.0025879937608656744), (0.00018734620462947843, -0.99935598738147314), (-0.10848191924054485, 1.2907974677458787)]),
    ("tanh", [(0.96778680215277405, -0.092637836268419877), (-0.46970516596755817, 0.72703718624352005), (0.71629821897694674, -0.00048691727362522733), (-1.0007095360672329, -0.0049082580674960603), (1.0, 1.5924545408982667e-26)]),
    ("sinh", [(-1.705858641164467, 1.4078516262453896), (-0.23290996731262683, 0.67342555995257893), (1.0265162124498552, -0.0014330861466010554), (6.5481200409110016, 7.6192317203214102), (2886963428999.4652, 4496179145119.9714)]),
    ("cosh", [(-1.8846179444033464, 1.2743144408870996), (0.79951899559903476, -0.19617735916146122), (1.4330856689056414, -0.0010265165546220629), (-6.5806630405511564, -7.5815527427465444), (2886963428999.4652, 4496179145119.9714)]),
    ("asin", [(0.51554843573490671, 1.7776623775066448), (-0.24573200610107972, 0.67033674298778974), (1.1197640816419289, -0.0022941295897291669), (-0.63398386563917672, -2.3055090312434769), (1.5374568381211225, 4.0946228412706889)]),
    ("acos", [(1.0552478910599899, -1.7776623775066448), (1.8165283328959763, -0.67033674298778974), (0.45103224515296774, 0.0022941295897291669), (2.2047801924340733, 2.3055090312434769), (0.033339488673774167, -4.0946228412706889)]),
    ("atan", [(1.3805431382387142, 0.29251781316256366), (-0.480035181202844, 0.70168043215230994), (0.73281537650341151, -0.00055248610745951639), (-1.4483069952314645, -0.15899719167999917), (1.5375122449069847, 0.0011086492669664365)]),
    ("asinh", [(1.750148761317515, 1.0033627117332508), (-0.38559098731817491, 0.70890344096550527), (0.80886712044968911, -0.00074329412280248354), (-2.2999140408792696, -0.91761685335147866), (4.0951765485379989, 0.033302533776009506)]),
    ("acosh", [(1.7776623775066448, 1.0552478910599899), (0.67033674298778974, 1.8165283328959763), (0.0022941295897291669, -0.45103224515296774), (2.3055090312434769, -2.2047801924340733), (4.0946228412706889, 0.033339488673774167)]),
    ("atanh", [(0.163481616851666, 1.2767950250211128), (-0.19988189602962927, 0.63966976615851476), (1.4721945600852049, -0.0052629912137704907), (-0.11750090731143389, -1.4099210495965755), (0.033308609105844941, 1.5696852175127696)]),
    ("logistic", [(1.1863037852668916, 0.19289797630487533), (0.415886769423246, 0.17794292214437492), (0.71094954597519688, -0.00020550031532258837), (-0.032072199588268518, 0.040195507655084086), (0.99999999999994944, 7.8741682150501377e-14)]),
    ("sign", [(0.51449575542752651, 0.85749292571254419), (-0.39391929857916767, 0.9191450300180579), (0.99999938271662094, -0.0011111104252406899), (-0.6, -0.8), (0.99944490697915434, 0.033314830232638478)]),
    ("abs", [(2.9154759474226502, 0.0), (0.76157731058639083, 0.0), (0.90000055555538409, 0.0), (5.0, 0.0), (30.016662039607269, 0.0)]),
    ("power", [(4.2125097769714728, -4.5359545643490624), (2.4764980885580319, 10.011485536865146), (0.93923175746852335, 0.12388595486289266), (-0.14037901095386976, -0.0031796432197145455), (-2.621644945137408, 5.0745643202438359)]),
    ("divide", [(-1.3103448275862069, 1.7241379310344828), (-0.56551724137931034, -0.013793103448275862), (0.24896551724137931, 0.62041379310344828), (1.9310344827586207, -3.1724137931034483), (7.5862068965517241, 20.96551724137931)]),
    ("multiply", [(3.875, -0.625), (0.725, 0.725), (0.44875, -1.1255), (-6.5, 1.75), (16.25, -37.0)]),
    ("atan2", [(1.8795924635244746, 0.35133563902264627), (-0.51474030440202691, -0.010450842451090138), (0.36647667890996563, 0.64205917504887454), (-1.7173897750738377, -0.2292766813478711), (1.5555095090010236, 0.042190539001013445)]),
];
const POINTS: [(f64, f64); 5] = [(1.5, 2.5), (-0.3, 0.7), (0.9, -0.001), (-3.0, -4.0), (30.0, 1.0)];

#[test]
fn complex_functions_have_their_known_values() {
    let (re, im): (Vec<f64>, Vec<f64>) = POINTS.into_iter().unzip();
    for (name, want) in COMPLEX {
        for dtype in [DType::F64, DType::F32] {
            let ins = [
                real(&[5], re.clone()).convert(dtype),
                real(&[5], im.clone()).convert(dtype),
                real(&[5], vec![0.5; 5]).convert(dtype),
                real(&[5], vec![-1.25; 5]).convert(dtype),
            ];
            let got = run(&ins, |g, x| {
                let (z, y) = (Number::complex(x[0], x[1]), Number::complex(x[2], x[3]));
                let two = ["power", "divide", "multiply", "atan2"].contains(name);
                let w = complex::apply(g, name, &[z, y][..if two { 2 } else { 1 }]).unwrap();
                assert_eq!(w.im.is_none(), *name == "abs");
                parts(w)
            });
            for (k, (a, b)) in want.iter().enumerate() {
                // Rounding the points to f32 moves the values too.
                let eps = if dtype == DType::F64 { 2e-14 } else { 4e-6 };
                let w = (got[0].floats()[k], got.get(1).map_or(0.0, |t| t.floats()[k]));
                let off = (w.0 - a).hypot(w.1 - b) / a.hypot(*b).max(1e-3);
                assert!(off < eps, "{name} {dtype} at {:?} is {w:?}, not {:?}", POINTS[k], (a, b));
            }
        }
    }
}

#[test]
fn complex_edges() {
    let (inf, z) = (f64::INFINITY, 0.0);
    let ins = [real(&[5], vec![0.0, -1.0, -4.0, 1e200, inf]), real(&[5], vec![0.0, 0.0, -0.0, 1e200, f64::NAN])];
    let one = |name: &str| {
        let got = run(&ins, |g, x| parts(complex::apply(g, name, &[Number::complex(x[0], x[1])]).unwrap()));
        got.iter().map(Tensor::floats).collect::<Vec<_>>()
    };
    assert_eq!(one("sqrt")[0][..3], [0.0, 0.0, 0.0]);
    assert_eq!(one("sqrt")[1][..3], [0.0, 1.0, -2.0]);
    assert_eq!(one("abs")[0], [0.0, 1.0, 4.0, 1e200 * 2f64.sqrt(), inf]);
    assert_eq!((one("log")[0][0], one("log")[1][1]), (-inf, std::f64::consts::PI));
    assert_eq!((one("sign")[0][0], one("cbrt")[0][0], one("exponential_minus_one")[0][0]), (z, z, z));
    let twice = run(&ins, |g, x| {
        let n = Number::complex(x[0], x[1]);
        let m = complex::apply(g, "negate", &[n]).unwrap();
        vec![complex::compare(g, CompareFn::Eq, n, m).unwrap(), complex::compare(g, CompareFn::Ne, n, n).unwrap()]
    });
    assert_eq!((twice[0].ints(), twice[1].ints()), (vec![1, 0, 0, 0, 0], vec![0, 0, 0, 0, 1]));
}

/// Σ x_j e^{−2πi jk/n}, the sign turned for the inverse, which is not divided.
fn dft(x: &[(f64, f64)], sign: f64) -> Vec<(f64, f64)> {
    let n = x.len();
    (0..n)
        .map(|k| {
            x.iter().enumerate().fold((0.0, 0.0), |(re, im), (j, (a, b))| {
                let (s, c) = (sign * 2.0 * std::f64::consts::PI * ((j * k % n) as f64) / n as f64).sin_cos();
                (re + a * c - b * s, im + a * s + b * c)
            })
        })
        .collect()
}

#[test]
fn transforms_of_every_kind_of_length() {
    let mut r = Random::new(6);
    for n in [1, 2, 3, 7, 8, 48, 53, 60, 96, 98, 106, 144, 59 * 61] {
        let x: Vec<(f64, f64)> = (0..n).map(|_| (r.unit(), r.unit())).collect();
        let (re, im): (Vec<f64>, Vec<f64>) = x.iter().copied().unzip();
        let ins = [real(&[1, n], re.clone()), real(&[1, n], im)];
        let got = run(&ins, |g, v| {
            let z = Number::complex(v[0], v[1]);
            let y = fft(g, z, FftKind::Fft, &[n]).unwrap();
            let back = fft(g, y, FftKind::Ifft, &[n]).unwrap();
            let half = fft(g, Number::real(v[0]), FftKind::Rfft, &[n]).unwrap();
            let whole = fft(g, half, FftKind::Irfft, &[n]).unwrap();
            assert!(whole.im.is_none());
            [parts(y), parts(back), parts(half), parts(whole)].concat()
        });
        let most = 1e-14 * (n as f64 + 4.0);
        let (wr, wi): (Vec<f64>, Vec<f64>) = dft(&x, -1.0).into_iter().unzip();
        close(&got[0].floats(), &wr, most, &format!("fft of {n}"));
        close(&got[1].floats(), &wi, most, &format!("fft of {n}"));
        close(&got[2].floats(), &ins[0].floats(), most, &format!("ifft of {n}"));
        close(&got[3].floats(), &ins[1].floats(), most, &format!("ifft of {n}"));
        let only: Vec<(f64, f64)> = re.iter().map(|v| (*v, 0.0)).collect();
        let (hr, hi): (Vec<f64>, Vec<f64>) = dft(&only, -1.0).into_iter().take(n / 2 + 1).unzip();
        close(&got[4].floats(), &hr, most, &format!("rfft of {n}"));
        close(&got[5].floats(), &hi, most, &format!("rfft of {n}"));
        close(&got[6].floats(), &re, most, &format!("irfft of {n}"));
    }
    let mut g = Graph::new("wrong");
    let x = g.input("x", TensorType::new(DType::F32, [4, 6]), Role::Data);
    assert!(fft(&mut g, x.into(), FftKind::Fft, &[5]).is_none() && fft(&mut g, x.into(), FftKind::Irfft, &[4, 8]).is_none());
    let huge = g.input("y", TensorType::new(DType::F32, [10007]), Role::Data);
    assert!(fft(&mut g, huge.into(), FftKind::Fft, &[10007]).is_none());
}

#[test]
fn transforms_of_planes() {
    let x = real(&[4, 4], (1..17).map(f64::from).collect());
    let got = run(&[x.clone()], |g, v| {
        let y = fft(g, v[0].into(), FftKind::Rfft, &[4, 4]).unwrap();
        let back = fft(g, y, FftKind::Irfft, &[4, 4]).unwrap();
        [parts(y), parts(back)].concat()
    });
    close(&got[0].floats(), &[136.0, -8.0, -8.0, -32.0, 0.0, 0.0, -32.0, 0.0, 0.0, -32.0, 0.0, 0.0], 1e-13, "re");
    close(&got[1].floats(), &[0.0, 8.0, 0.0, 32.0, 0.0, 0.0, 0.0, 0.0, 0.0, -32.0, 0.0, 0.0], 1e-13, "im");
    close(&got[2].floats(), &x.floats(), 1e-13, "back");
}

/// The product of batches of row-major matrices.
fn matmul(x: &[(f64, f64)], y: &[(f64, f64)], n: usize, k: usize, m: usize) -> Vec<(f64, f64)> {
    let batches = x.len() / (n * k);
    let mut out = Vec::new();
    for b in 0..batches {
        for i in 0..n {
            for j in 0..m {
                out.push((0..k).fold((0.0, 0.0), |(re, im), l| {
                    let ((a, c), (d, e)) = (x[(b * n + i) * k + l], y[(b * k + l) * m + j]);
                    (re + a * d - c * e, im + a * e + c * d)
                }));
            }
        }
    }
    out
}

fn transposed(x: &[(f64, f64)], n: usize, m: usize, adjoint: bool) -> Vec<(f64, f64)> {
    let sign = if adjoint { -1.0 } else { 1.0 };
    x.chunks(n * m).flat_map(|x| (0..n * m).map(|i| x[i % n * m + i / n]).map(|(a, b)| (a, sign * b)).collect::<Vec<_>>()).collect()
}

#[test]
fn factors_of_positive_matrices() {
    let mut r = Random::new(8);
    for (n, is_complex) in [(1, false), (1, true), (5, false), (16, true), (17, false), (40, true), (70, false)] {
        let g0: Vec<(f64, f64)> = (0..2 * n * n).map(|_| (r.unit(), if is_complex { r.unit() } else { 0.0 })).collect();
        let mut a = matmul(&g0, &transposed(&g0, n, n, true), n, n, n);
        (0..2 * n).for_each(|i| a[(i / n * n + i % n) * n + i % n].0 += n as f64);
        for lower in [true, false] {
            // The other triangle is not read.
            let one: Vec<(f64, f64)> = (0..a.len())
                .map(|p| {
                    let (i, j) = (p / n % n, p % n);
                    if if lower { j > i } else { i > j } { (f64::NAN, f64::NAN) } else { a[p] }
                })
                .collect();
            let (re, im): (Vec<f64>, Vec<f64>) = one.into_iter().unzip();
            let ins = [real(&[2, n, n], re), real(&[2, n, n], im)];
            let got = run(&ins, |g, v| {
                let x = if is_complex { Number::complex(v[0], v[1]) } else { v[0].into() };
                parts(cholesky(g, x, lower).unwrap())
            });
            let im = got.get(1).map_or(vec![0.0; a.len()], Tensor::floats);
            let l: Vec<(f64, f64)> = got[0].floats().into_iter().zip(im).collect();
            let lh = transposed(&l, n, n, true);
            let back = if lower { matmul(&l, &lh, n, n, n) } else { matmul(&lh, &l, n, n, n) };
            let flat = |x: &[(f64, f64)]| x.iter().flat_map(|(a, b)| [*a, *b]).collect::<Vec<_>>();
            close(&flat(&back), &flat(&a), 1e-12 * n as f64, &format!("cholesky of {n} rows, lower {lower}"));
        }
    }
}

#[test]
fn triangular_systems_of_every_form() {
    let mut r = Random::new(9);
    for (n, k, is_complex) in [(3, 1, false), (1, 4, true), (20, 3, true), (37, 2, false)] {
        let pick = |r: &mut Random| (r.unit() / n as f64, if is_complex { r.unit() / n as f64 } else { 0.0 });
        let mut a: Vec<(f64, f64)> = (0..2 * n * n).map(|_| pick(&mut r)).collect();
        (0..2 * n).for_each(|i| a[(i / n * n + i % n) * n + i % n].0 += 2.0);
        let x: Vec<(f64, f64)> = (0..2 * n * k).map(|_| pick(&mut r)).collect();
        for form in 0..24 {
            let (left, lower, unit) = (form & 1 == 0, form & 2 == 0, form & 4 == 0);
            let transpose = [Transpose::None, Transpose::Plain, Transpose::Adjoint][form / 8];
            let mut t = a.clone();
            for (p, v) in t.iter_mut().enumerate() {
                let (i, j) = (p / n % n, p % n);
                if i == j && unit {
                    *v = (1.0, 0.0);
                } else if if lower { j > i } else { i > j } {
                    *v = (0.0, 0.0);
                }
            }
            let op = match transpose {
                Transpose::None => t,
                Transpose::Plain => transposed(&t, n, n, false),
                Transpose::Adjoint => transposed(&t, n, n, true),
            };
            let b = if left { matmul(&op, &x, n, n, k) } else { matmul(&x, &op, k, n, n) };
            let shape = if left { [2, n, k] } else { [2, k, n] };
            let split = |x: &[(f64, f64)]| x.iter().copied().unzip::<f64, f64, Vec<f64>, Vec<f64>>();
            let ((ar, ai), (br, bi)) = (split(&a), split(&b));
            let ins = [real(&[2, n, n], ar), real(&[2, n, n], ai), real(&shape, br), real(&shape, bi)];
            let got = run(&ins, |g, v| {
                let (a, b) =
                    if is_complex { (Number::complex(v[0], v[1]), Number::complex(v[2], v[3])) } else { (v[0].into(), v[2].into()) };
                parts(triangular_solve(g, a, b, left, lower, unit, transpose).unwrap())
            });
            let (wr, wi) = split(&x);
            close(&got[0].floats(), &wr, 1e-13, &format!("form {form} of {n}"));
            if is_complex {
                close(&got[1].floats(), &wi, 1e-13, &format!("form {form} of {n}"));
            }
        }
    }
}

#[test]
fn bits_between_sizes() {
    let x = ints(DType::U64, &[2], &[0x0123_4567_89ab_cdef, 1]);
    let got = run(&[x.clone()], |g, v| {
        let small = bitcast_convert(g, v[0], DType::U16).unwrap();
        let back = bitcast_convert(g, small, DType::U64).unwrap();
        let truth = bitcast_convert(g, v[0], DType::Bool).unwrap();
        let again = bitcast_convert(g, truth, DType::I64).unwrap();
        let pair = bitcast_complex(g, v[0].into(), DType::F32, true).unwrap();
        let home = bitcast_complex(g, pair, DType::U64, false).unwrap();
        let nothing = bitcast_convert(g, v[0], DType::U64).unwrap();
        assert!(bitcast_convert(g, small, DType::U32).is_none());
        vec![small, back, truth, again, home.re, nothing]
    });
    assert_eq!(got[0], ints(DType::U16, &[2, 4], &[0xcdef, 0x89ab, 0x4567, 0x0123, 1, 0, 0, 0]));
    assert_eq!((&got[1], &got[4], &got[5]), (&x, &x, &x));
    assert_eq!((got[2].ints()[..5].to_vec(), got[2].shape()), (vec![1, 1, 1, 1, 0], &[2, 64][..]));
    assert_eq!(got[3].ints(), x.ints());
}

#[test]
fn the_total_order_of_floats() {
    let sorted = [-f64::INFINITY, -2.0, -0.0, 0.0, 1e-300, 3.0, f64::INFINITY, f64::NAN];
    let keys = run(&[real(&[8], sorted.to_vec())], |g, v| vec![total_order(g, v[0])]).remove(0).ints();
    assert!(keys.windows(2).all(|w| w[0] < w[1]), "{keys:?}");
}

#[test]
fn functions_with_broadcasting() {
    let (x, n) = (real(&[2, 1], vec![1.0, 0.5]), real(&[3], vec![0.0, 1.0, 2.5]));
    let got = run(&[x, n], |g, v| {
        let (x, n) = (Number::real(v[0]), Number::real(v[1]));
        let lt = chlo::elementwise(g, "broadcast_compare", &[x, n], None, Some(CompareFn::Lt)).unwrap();
        let poly = chlo::elementwise(g, "broadcast_polygamma", &[n, x], None, None).unwrap();
        let square = chlo::elementwise(g, "square", &[n], None, None).unwrap();
        assert!(chlo::elementwise(g, "no_such_function", &[n], None, None).is_none());
        assert!(chlo::elementwise(g, "broadcast_add", &[x, n], Some(&[7]), None).is_none());
        vec![lt.re, poly.re, square.re]
    });
    assert_eq!((got[0].ints(), got[2].floats()), (vec![0, 0, 1, 0, 1, 1], vec![0.0, 1.0, 6.25]));
    let p = got[1].floats();
    close(&p[..2], &[-0.577_215_664_901_532_9, 1.644_934_066_848_226_4], 1e-14, "polygamma");
    close(&p[3..5], &[-1.963_510_026_021_423_5, 4.934_802_200_544_679], 1e-14, "polygamma");
    assert!(p[2].is_nan() && p[5].is_nan());
}

#[test]
fn ragged_products() {
    let lhs = real(&[4, 2], (1..9).map(f64::from).collect());
    let rhs = real(&[2, 2, 1], vec![1.0, 0.0, 0.0, 10.0]);
    let columns = real(&[4, 1], vec![1.0, 2.0, 3.0, 4.0]);
    let got = run(&[lhs, rhs, columns, ints(DType::I64, &[2], &[3, 1])], |g, v| {
        let dot = |l: usize, r: usize| RaggedDot { lhs_contract: vec![l], rhs_contract: vec![r], ..RaggedDot::default() };
        let rows = RaggedDims { dot: dot(1, 1), ragged: vec![0], group: vec![0] };
        let inner = RaggedDims { dot: dot(0, 0), ragged: vec![0], group: vec![] };
        vec![ragged_dot(g, v[0], v[1], v[3], &rows).unwrap(), ragged_dot(g, v[0], v[2], v[3], &inner).unwrap()]
    });
    // Rows 0 to 2 take the first matrix, which picks the first column, row 3 the second.
    assert_eq!(got[0], real(&[4, 1], vec![1.0, 3.0, 5.0, 80.0]));
    assert_eq!(got[1], real(&[2, 2, 1], vec![1.0 + 6.0 + 15.0, 2.0 + 8.0 + 18.0, 28.0, 32.0]));
}
