//! Maps against bytes written one by one.

use super::*;
use girih_ir::program::Region;
use girih_ir::types::{DType, Dims};

fn region(offset: u64, dims: &[usize], strides: &[i64]) -> Region {
    Region { offset, dtype: DType::F32, dims: Dims::from_slice(dims), strides: strides.iter().copied().collect() }
}

#[test]
fn regions_are_runs() {
    let list = |dims: &[usize], strides: &[i64]| Runs::of(&region(64, dims, strides)).map(|r| r.iter().collect::<Vec<_>>());
    assert_eq!(list(&[2, 3, 4], &[12, 4, 1]), Some(vec![64..160]));
    assert_eq!(list(&[3, 2], &[1, 3]), Some(vec![64..88]), "a transposed region fills its bytes");
    assert_eq!(list(&[2, 3], &[8, 1]), Some(vec![64..76, 96..108]));
    assert_eq!(list(&[2, 2, 2], &[100, 4, 1]), Some(vec![64..72, 80..88, 464..472, 480..488]));
    assert_eq!(list(&[5, 3], &[0, 1]), Some(vec![64..76]), "what is repeated is there once");
    assert_eq!(list(&[3, 3], &[1, 1]), None);
    let combs: Vec<(u64, Comb)> = Runs::of(&region(0, &[2, 5, 2], &[100, 4, 1])).unwrap().combs().collect();
    let comb = |at| Comb { at, rows: 5, len: 8, pitch: 16 };
    assert_eq!(combs, [(0, comb(0)), (40, comb(400))]);
}

/// A stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn region(&mut self) -> Region {
        let dims = [1 + self.below(3) as usize, 1 + self.below(6) as usize, 1 + self.below(9) as usize];
        let row = dims[2] as i64 + [0, 0, 3, 7][self.below(4) as usize];
        let plane = row * dims[1] as i64 + [0, 0, row, 5][self.below(4) as usize];
        region(4 * self.below(150), &dims, &[plane, row, 1])
    }
}

/// The pieces of a content byte by byte: value and place in the image.
fn bytes_of(content: &[Patch], len: u64) -> Vec<(Val, u64)> {
    let mut all = vec![(Val::MAX, u64::MAX); len as usize];
    for p in content {
        for r in 0..p.rows {
            for c in 0..p.len {
                let at = (p.start[AT] + r * p.pitch[AT] + c) as usize;
                assert_eq!(all[at], (Val::MAX, u64::MAX), "twice the same byte in {content:?}");
                all[at] = (p.val, p.start[OFF] + r * p.pitch[OFF] + c);
            }
        }
    }
    all
}

const END: u64 = 4000;

#[test]
fn maps_keep_what_was_put_last() {
    for seed in 0..400 {
        let mut n = Numbers(seed);
        let (mut map, mut plain) = (Map::default(), (0..END).map(|a| (0, a)).collect::<Vec<(Val, u64)>>());
        for step in 1..30 {
            let runs = Runs::of(&n.region()).unwrap();
            if n.below(3) > 0 {
                for (before, comb) in runs.combs() {
                    map.set(&Patch::new(step, (comb.rows, comb.len), (comb.at, comb.pitch), (before, comb.len)), &|_| true);
                }
                runs.iter().flatten().zip(0..).for_each(|(at, off)| plain[at as usize] = (step, off));
            } else {
                // What is in some runs goes to others of as many bytes.
                let to = Runs::of(&n.region()).unwrap();
                let to = if to.bytes() == runs.bytes() { to } else { Runs::one(600..600 + runs.bytes()) };
                let mut places = Vec::new();
                map.content(&runs).iter().for_each(|p| to.place(p, &mut places));
                places.iter().for_each(|p| map.set(p, &|_| true));
                let moved: Vec<(Val, u64)> = runs.iter().flatten().map(|at| plain[at as usize]).collect();
                to.iter().flatten().zip(moved).for_each(|(at, b)| plain[at as usize] = b);
            }
            let look = Runs::of(&n.region()).unwrap();
            let want: Vec<(Val, u64)> = look.iter().flatten().map(|at| plain[at as usize]).collect();
            let content = map.content(&look);
            assert_eq!(bytes_of(&content, look.bytes()), want, "seed {seed} step {step}");
            assert!(map.holds(&look, &content), "seed {seed} step {step}: {content:?}");
            let mut other = content.clone();
            other[0].start[OFF] += 1;
            assert!(!map.holds(&look, &other));
            // What lies there and what may not, together, is all there is.
            let mut places = Vec::new();
            let probe = Patch::new(step, (1, look.bytes()), (0, 0), (0, 0));
            look.place(&probe, &mut places);
            for place in &places {
                let (same, rest) = map.compare(place);
                let count: u64 = same.iter().chain(&rest).map(Patch::bytes).sum();
                assert_eq!(count, place.bytes(), "seed {seed} step {step}");
                let at = |p: &Patch| {
                    (0..p.rows)
                        .flat_map(|r| (0..p.len).map(move |c| (r, c)))
                        .map(|(r, c)| (plain[(p.start[AT] + r * p.pitch[AT] + c) as usize], (step, p.start[OFF] + r * p.pitch[OFF] + c)))
                        .collect::<Vec<_>>()
                };
                assert!(same.iter().flat_map(at).all(|(have, want)| have == want), "seed {seed} step {step}");
            }
        }
    }
}

#[test]
fn the_same_bytes_are_the_same_pieces() {
    let columns = |k: u64| Runs::of(&region(k * 16, &[2, 10, 4], &[160, 16, 1])).unwrap();
    let put = |map: &mut Map, runs: &Runs, val: Val| {
        for (before, comb) in runs.combs() {
            map.set(&Patch::new(val, (comb.rows, comb.len), (comb.at, comb.pitch), (before, comb.len)), &|_| true);
        }
    };
    let (mut a, mut b) = (Map::default(), Map::default());
    (0..4).for_each(|k| put(&mut a, &columns(k), 7 + k as Val));
    put(&mut b, &Runs::one(0..1280), 3);
    (0..4).rev().for_each(|k| put(&mut b, &columns(k), 7 + k as Val));
    let all = Runs::one(0..1280);
    assert_eq!(a.content(&all), b.content(&all));
    assert_eq!(a.content(&all).len(), 4, "{:?}", a.content(&all));
    assert_eq!(a.content(&columns(2)).as_slice(), [Patch::new(9, (1, 320), (0, 0), (0, 0))]);
}

#[test]
fn what_was_forgotten_is_lost() {
    let mut map = Map::default();
    let put = |map: &mut Map, val: Val, rows: u64, pitch: u64| map.set(&Patch::new(val, (rows, 8), (0, pitch), (0, 8)), &|v| v == 3);
    put(&mut map, 1, 10, 32);
    put(&mut map, 2, 20, 16);
    let vals = |map: &Map| map.content(&Runs::one(0..64)).iter().map(|p| p.val).collect::<Vec<_>>();
    assert!(vals(&map).contains(&LOST) && !vals(&map).contains(&1));
    let content = map.content(&Runs::one(0..64));
    assert!(!map.holds(&Runs::one(0..64), &content), "nobody knows what is there");
    put(&mut map, 3, 10, 24);
    put(&mut map, 4, 10, 40);
    assert!(vals(&map).contains(&3), "what is wanted is kept");
}

#[test]
fn ranges_are_joined() {
    let mut r = Ranges::default();
    [10..20, 30..40, 20..25].into_iter().for_each(|x| r.add(x));
    assert_eq!(r.iter().collect::<Vec<_>>(), [10..25, 30..40]);
    assert!(r.covers(&(12..25)) && !r.covers(&(12..26)) && r.meets(&(24..28)) && !r.meets(&(25..30)));
    r.add(22..35);
    assert_eq!(r.iter().collect::<Vec<_>>(), [10..40]);
}

#[test]
fn rows_that_follow_each_other_in_an_image_are_apart_in_memory() {
    let runs = Runs::walk(1000, 8, std::iter::once((6, 32)));
    let part = Patch { val: 1, rows: 4, len: 8, start: [8; 3], pitch: [8; 3] };
    let mut places = Vec::new();
    runs.place(&part, &mut places);
    assert_eq!(places, [Patch { val: 1, rows: 4, len: 8, start: [1032, 8, 8], pitch: [32, 8, 8] }]);
}
