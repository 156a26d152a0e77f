use std::ops::Range;

use half::f16;

use super::{Random, bits, computes};
use crate::kernel::{Attend, Compute, Isa, KvCache, PAGE_TOKENS, Precision, Sequence};

#[derive(Clone, Copy, Debug)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    key_width: usize,
    value_width: usize,
    prefix: bool,
    precision: Precision,
    window: Option<usize>,
    softcap: Option<f32>,
}

const PLAIN: Shape = Shape {
    heads: 6,
    kv_heads: 2,
    key_width: 48,
    value_width: 48,
    prefix: false,
    precision: Precision::Half,
    window: None,
    softcap: None,
};

/// A cache filled token by token with sequences of these lengths, and what is needed to attend to it.
struct World {
    shape: Shape,
    cache: KvCache,
    /// Per sequence: its pages, and all its keys and values as the cache keeps them.
    pages: Vec<Vec<u32>>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl World {
    fn new(shape: Shape, lengths: &[usize], random: &mut Random) -> Self {
        let total: usize = lengths.iter().map(|l| l.div_ceil(PAGE_TOKENS)).sum();
        let pages = total * 2 + 1;
        let mut cache = KvCache::new(
            pages,
            shape.kv_heads,
            shape.key_width,
            shape.value_width,
            shape.precision,
            shape.prefix,
        );
        // What earlier sequences have left in the pages must not matter.
        let rubbish = vec![f32::NAN; PAGE_TOKENS * shape.kv_heads * shape.key_width];
        let more = vec![f32::NAN; PAGE_TOKENS * shape.kv_heads * shape.value_width];
        for page in 0..pages as u32 {
            let all = Sequence {
                rows: 0..PAGE_TOKENS,
                start: 0,
                pages: &[page],
            };
            cache.write(&[all], &rubbish, if shape.prefix { &[] } else { &more });
        }
        let mut free: Vec<u32> = (0..pages as u32).collect();
        for i in (1..free.len()).rev() {
            free.swap(i, random.next() as usize % (i + 1));
        }
        let mut world = Self {
            shape,
            cache,
            pages: vec![],
            keys: vec![],
            values: vec![],
        };
        let kept = |x: f32| match shape.precision {
            Precision::Half => f16::from_f32(x).to_f32(),
            Precision::Single => x,
        };
        for length in lengths {
            let pages: Vec<u32> = (0..length.div_ceil(PAGE_TOKENS))
                .map(|_| free.pop().unwrap())
                .collect();
            let keys = random.numbers(length * shape.kv_heads * shape.key_width);
            let mut values = random.numbers(length * shape.kv_heads * shape.value_width);
            // In two pieces, the second beginning within a page.
            let first = length * 2 / 3;
            for rows in [0..first, first..*length] {
                let sequence = Sequence {
                    rows: 0..rows.len(),
                    start: rows.start,
                    pages: &pages,
                };
                let width = shape.kv_heads * shape.key_width;
                let k = &keys[rows.start * width..rows.end * width];
                let width = shape.kv_heads * shape.value_width;
                let v = &values[rows.start * width..rows.end * width];
                world
                    .cache
                    .write(&[sequence], k, if shape.prefix { &[] } else { v });
            }
            if shape.prefix {
                values = keys
                    .chunks(shape.key_width)
                    .flat_map(|k| &k[..shape.value_width])
                    .copied()
                    .collect();
            }
            world.pages.push(pages);
            world.keys.push(keys.into_iter().map(kept).collect());
            world.values.push(values.into_iter().map(kept).collect());
        }
        world
    }

    fn attend(&self, compute: &Compute, batch: &[(usize, Range<usize>)], q: &[f32]) -> Vec<f32> {
        let mut row = 0;
        let sequences: Vec<_> = batch
            .iter()
            .map(|(i, tokens)| {
                let rows = row..row + tokens.len();
                row = rows.end;
                Sequence {
                    rows,
                    start: tokens.start,
                    pages: &self.pages[*i],
                }
            })
            .collect();
        let a = Attend {
            cache: &self.cache,
            sequences: &sequences,
            heads: self.shape.heads,
            scale: 0.3,
            window: self.shape.window,
            softcap: self.shape.softcap,
        };
        let mut out = vec![0.0; row * self.shape.heads * self.shape.value_width];
        compute.attend(&a, q, &mut out);
        out
    }

    /// Plain softmax in f64.
    fn wanted(&self, sequence: usize, token: usize, head: usize, q: &[f32]) -> Vec<f64> {
        let s = self.shape;
        let kv = head / (s.heads / s.kv_heads);
        let first = s.window.map_or(0, |w| (token + 1).saturating_sub(w));
        let scores: Vec<f64> = (first..=token)
            .map(|t| {
                let k = &self.keys[sequence][(t * s.kv_heads + kv) * s.key_width..][..s.key_width];
                let dot: f64 = k
                    .iter()
                    .zip(q)
                    .map(|(k, q)| f64::from(*k) * f64::from(*q))
                    .sum();
                let score = dot * f64::from(0.3f32);
                s.softcap.map_or(score, |cap| {
                    f64::from(cap) * (score / f64::from(cap)).tanh()
                })
            })
            .collect();
        let largest = scores.iter().fold(f64::MIN, |a, s| a.max(*s));
        let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        let mut out = vec![0.0; s.value_width];
        for (t, score) in (first..=token).zip(scores) {
            let v =
                &self.values[sequence][(t * s.kv_heads + kv) * s.value_width..][..s.value_width];
            for (o, v) in out.iter_mut().zip(v) {
                *o += (score - largest).exp() / sum * f64::from(*v);
            }
        }
        out
    }

    /// Values against f64, and the same bits for every computer and every row alone.
    fn check(&self, batch: &[(usize, Range<usize>)], random: &mut Random) {
        let s = self.shape;
        let rows: usize = batch.iter().map(|(_, tokens)| tokens.len()).sum();
        let q_width = s.heads * s.key_width;
        let q: Vec<f32> = random
            .numbers(rows * q_width)
            .iter()
            .map(|x| x * 3.0)
            .collect();
        let got = self.attend(&Compute::with_isa(1, Isa::Portable), batch, &q);
        let mut row = 0;
        let best = Compute::new(2);
        for (sequence, tokens) in batch {
            for token in tokens.clone() {
                let q = &q[row * q_width..][..q_width];
                let got = &got[row * s.heads * s.value_width..][..s.heads * s.value_width];
                for head in 0..s.heads {
                    let q = &q[head * s.key_width..][..s.key_width];
                    let wanted = self.wanted(*sequence, token, head, q);
                    for (got, wanted) in got[head * s.value_width..].iter().zip(wanted) {
                        let wrong = (f64::from(*got) - wanted).abs();
                        assert!(wrong < 1e-5, "{s:?} token {token}: {got}, wanted {wanted}");
                    }
                }
                let alone = self.attend(&best, &[(*sequence, token..token + 1)], q);
                assert_eq!(bits(&alone), bits(got), "{s:?} token {token} alone");
                row += 1;
            }
        }
        for compute in computes() {
            let again = self.attend(&compute, batch, &q);
            assert!(
                bits(&again) == bits(&got),
                "{s:?} {} {}",
                compute.name(),
                compute.threads()
            );
        }
    }
}

fn check(shape: Shape, lengths: &[usize], batch: &[(usize, Range<usize>)]) {
    let mut random = Random(lengths.len() as u64);
    World::new(shape, lengths, &mut random).check(batch, &mut random);
}

#[test]
fn one_new_token_sees_all_before_it() {
    for length in [1, 2, 15, 16, 17, 255, 256, 257, 700] {
        check(PLAIN, &[length], &[(0, length - 1..length)]);
    }
}

#[test]
fn a_ragged_batch_is_its_sequences() {
    let batch = [(0, 0..33), (1, 270..290), (2, 4..5), (3, 0..1)];
    check(PLAIN, &[33, 290, 5, 1], &batch);
}

#[test]
fn single_precision_is_kept() {
    let shape = Shape {
        precision: Precision::Single,
        ..PLAIN
    };
    check(shape, &[40, 300], &[(0, 20..40), (1, 299..300)]);
}

#[test]
fn a_window_hides_what_is_older() {
    for window in [1, 3, 16, 100, 1000] {
        let shape = Shape {
            window: Some(window),
            ..PLAIN
        };
        check(shape, &[530, 40], &[(0, 505..530), (1, 39..40)]);
    }
}

#[test]
fn scores_can_be_capped() {
    let shape = Shape {
        softcap: Some(2.0),
        ..PLAIN
    };
    check(shape, &[70], &[(0, 50..70)]);
}

#[test]
fn any_number_of_heads_may_share_keys() {
    for (heads, kv_heads) in [(1, 1), (4, 4), (5, 1), (14, 2), (9, 3), (16, 1)] {
        let shape = Shape {
            heads,
            kv_heads,
            ..PLAIN
        };
        check(shape, &[50], &[(0, 45..50)]);
    }
}

#[test]
fn keys_and_values_may_differ_in_width() {
    for (key_width, value_width) in [(8, 8), (7, 21), (96, 64), (1, 1), (64, 128), (80, 80)] {
        for precision in [Precision::Half, Precision::Single] {
            let shape = Shape {
                key_width,
                value_width,
                precision,
                ..PLAIN
            };
            check(shape, &[37], &[(0, 30..37)]);
        }
    }
}

#[test]
fn a_key_may_hold_its_value() {
    for (key_width, value_width) in [(72, 64), (64, 64), (21, 5)] {
        for precision in [Precision::Half, Precision::Single] {
            let shape = Shape {
                heads: 16,
                kv_heads: 1,
                key_width,
                value_width,
                prefix: true,
                precision,
                ..PLAIN
            };
            check(shape, &[37, 300], &[(0, 30..37), (1, 299..300)]);
        }
    }
}

#[test]
fn a_copied_page_is_the_page() {
    let mut random = Random(9);
    for prefix in [false, true] {
        let shape = Shape { prefix, ..PLAIN };
        let mut world = World::new(shape, &[40], &mut random);
        let q = random.numbers(shape.heads * shape.key_width);
        let compute = Compute::new(1);
        let before = world.attend(&compute, &[(0, 39..40)], &q);
        let used = world.pages[0].clone();
        let free = (0..world.cache.pages() as u32)
            .find(|p| !used.contains(p))
            .unwrap();
        world.cache.copy_page(used[1] as usize, free as usize);
        world.pages[0][1] = free;
        assert_eq!(world.attend(&compute, &[(0, 39..40)], &q), before);
    }
}

#[test]
fn numbers_beyond_halves_are_kept_as_the_largest_half() {
    let mut random = Random(10);
    let mut world = World::new(PLAIN, &[1], &mut random);
    let pages = world.pages[0].clone();
    let (k, v) = (vec![1e6; 96], vec![-1e6; 96]);
    let sequence = Sequence {
        rows: 0..1,
        start: 0,
        pages: &pages,
    };
    world.cache.write(&[sequence], &k, &v);
    let out = world.attend(&Compute::new(1), &[(0, 0..1)], &vec![0.001; 6 * 48]);
    assert!(out.iter().all(|x| *x == -65504.0));
}

#[test]
fn what_is_not_finite_does_not_panic() {
    let mut random = Random(11);
    let world = World::new(PLAIN, &[300], &mut random);
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        for compute in computes() {
            let q = vec![bad; 6 * 48];
            let out = world.attend(&compute, &[(0, 299..300)], &q);
            assert_eq!(out.len(), 6 * 48);
        }
    }
}

#[test]
#[should_panic(expected = "pages of")]
fn missing_pages_panic() {
    let mut random = Random(12);
    let mut world = World::new(PLAIN, &[40], &mut random);
    world.pages[0].pop();
    world.attend(&Compute::new(1), &[(0, 39..40)], &[0.0; 6 * 48]);
}
