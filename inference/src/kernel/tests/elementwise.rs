use super::{Random, bits, computes, isas};
use crate::kernel::{
    Compute, Isa,
    lanes::{Kernel, Lanes, dispatch, exp},
};

struct Exp(f32);

impl Kernel for Exp {
    type Output = f32;
    #[inline(always)]
    unsafe fn run<S: Lanes>(self) -> f32 {
        let mut out = [0.0; 16];
        // SAFETY: `dispatch` answers for the instructions.
        unsafe { S::store(&mut out, exp::<S>(S::splat(self.0))) };
        out[7]
    }
}

#[test]
fn the_exponential_is_within_its_promise() {
    for isa in isas() {
        let e = |x: f32| dispatch(isa, Exp(x));
        assert_eq!(e(0.0), 1.0);
        assert_eq!(e(-0.0), 1.0);
        assert_eq!(e(-100.0), 0.0);
        assert_eq!(e(f32::NEG_INFINITY), 0.0);
        assert!(e(1000.0) > 2e38);
        assert!(e(f32::NAN).is_nan());
        let mut worst: f64 = 0.0;
        let mut x = -87.3f32;
        while x < 88.3 {
            let wanted = f64::from(x).exp();
            worst = worst.max((f64::from(e(x)) - wanted).abs() / wanted);
            x += 0.000_917;
        }
        assert!(worst < 3e-7, "{isa:?}: {worst}");
    }
}

/// The same bits from every instruction set, alone and on threads; returns them.
fn everywhere(f: impl Fn(&Compute) -> Vec<f32>) -> Vec<f32> {
    let wanted = f(&Compute::with_isa(1, Isa::Portable));
    for compute in computes() {
        assert!(bits(&f(&compute)) == bits(&wanted), "{}", compute.name());
    }
    wanted
}

#[test]
fn norms_are_root_mean_squares() {
    let mut random = Random(1);
    for (rows, width) in [(1, 1), (3, 15), (2, 16), (5, 100), (97, 576)] {
        let (x, w) = (random.numbers(rows * width), random.numbers(width));
        let got = everywhere(|c| {
            let mut out = vec![f32::NAN; x.len()];
            c.rms_norm(&x, &w, 1e-5, &mut out);
            out
        });
        for (x, got) in x.chunks(width).zip(got.chunks(width)) {
            let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let root = (squares / width as f64 + 1e-5).sqrt();
            for ((x, w), got) in x.iter().zip(&w).zip(got) {
                let wanted = f64::from(*x) / root * f64::from(*w);
                assert!((f64::from(*got) - wanted).abs() < 1e-6 * (1.0 + wanted.abs()));
            }
        }
    }
}

#[test]
fn heads_are_turned_and_the_rest_stays() {
    let mut random = Random(2);
    for (rows, heads, width, half) in [(1, 1, 2, 1), (3, 5, 20, 7), (130, 4, 64, 32)] {
        let x = random.numbers(rows * heads * width);
        let angles = random.numbers(rows * half);
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        let got = everywhere(|c| {
            let mut x = x.clone();
            c.rotate(&mut x, heads, width, &cos, &sin);
            x
        });
        for (i, got) in got.iter().enumerate() {
            let (row, column) = (i / (heads * width), i % width);
            let (c, s) = (
                cos[row * half + column % half],
                sin[row * half + column % half],
            );
            let wanted = match column / half {
                0 => x[i] * c - x[i + half] * s,
                1 => x[i] * c + x[i - half] * s,
                _ => x[i],
            };
            assert!((got - wanted).abs() < 1e-6);
        }
    }
}

#[test]
fn gates_are_their_functions() {
    let mut random = Random(3);
    for (rows, width) in [(1, 1), (2, 33), (70, 1024)] {
        let mut x = random.numbers(rows * 2 * width);
        for x in &mut x {
            *x *= 12.0;
        }
        let run = |f: &dyn Fn(&Compute, &mut [f32])| {
            everywhere(|c| {
                let mut out = vec![f32::NAN; rows * width];
                f(c, &mut out);
                out
            })
        };
        let silu = run(&|c, out| c.silu_product(&x, width, out));
        let gelu = run(&|c, out| c.gelu_tanh_product(&x, width, out));
        for i in 0..rows * width {
            let at = i / width * 2 * width + i % width;
            let (g, u) = (f64::from(x[at]), f64::from(x[at + width]));
            let root = (2.0 / std::f64::consts::PI).sqrt();
            let wanted = [
                g / (1.0 + (-g).exp()) * u,
                0.5 * g * (1.0 + (root * (g + 0.044715 * g.powi(3))).tanh()) * u,
            ];
            for (got, wanted) in [silu[i], gelu[i]].into_iter().zip(wanted) {
                let wrong = (f64::from(got) - wanted).abs();
                assert!(
                    wrong < 2e-6 * (1.0 + wanted.abs()),
                    "{g} {u}: {got}, wanted {wanted}"
                );
            }
        }
    }
    let mut out = [f32::NAN; 2];
    Compute::new(1).silu_product(&[-1e30, 1e30, 1.0, 1.0], 2, &mut out);
    assert_eq!(out[1], 1e30);
    assert!(out[0].abs() < 1e-3);
}

#[test]
fn sums_are_sums() {
    let mut random = Random(4);
    for len in [0, 1, 1000, 100_000] {
        let (x, y) = (random.numbers(len), random.numbers(len));
        let got = everywhere(|c| {
            let mut x = x.clone();
            c.add(&mut x, &y);
            x
        });
        assert!(
            got.iter()
                .zip(x.iter().zip(&y))
                .all(|(g, (x, y))| *g == x + y)
        );
    }
}
