use proptest::prelude::*;

use super::{FORMATS, Random, bits, computes};
use crate::{
    gguf::{Format, dequantise},
    kernel::{Compute, Isa, KernelError, Matrix, Part},
};

fn pack(format: Format, bytes: &[u8], rows: usize, columns: usize) -> Matrix {
    let part = Part {
        format,
        bytes,
        rows,
        order: None,
    };
    Matrix::pack(&[part], columns).unwrap()
}

fn dequantised(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![];
    dequantise(format, bytes, &mut out).unwrap();
    out
}

fn is_plain(format: Format) -> bool {
    format.block_elements() == 1
}

/// Columns that fit a format, from a number of 1 to 9.
fn columns(format: Format, n: usize) -> usize {
    match format.block_elements() {
        1 => n * 7,
        32 => n * 32,
        block => n.div_ceil(3) * block,
    }
}

/// x as the kernels see it: rounded to multiples of max / 127 in blocks of 32; and half that step.
fn rounded(x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let (mut values, mut halves) = (vec![], vec![]);
    for block in x.chunks(32) {
        let d = block.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
        for x in block {
            let q = if d == 0.0 {
                0.0
            } else {
                (x / d).round_ties_even()
            };
            values.push(f64::from(d) * f64::from(q));
            halves.push(f64::from(d) * 0.5);
        }
    }
    (values, halves)
}

/// Checks x · wᵀ: closely against f64 arithmetic on activations rounded the way the kernels do, and on the
/// activations themselves within what that rounding may cost at most.
fn check(format: Format, w: &[f32], x: &[f32], y: &[f32], rows: usize, columns: usize) {
    for (x, y) in x.chunks(columns).zip(y.chunks(rows)) {
        let (seen, half) = if is_plain(format) {
            (
                x.iter().map(|x| f64::from(*x)).collect(),
                vec![0.0; columns],
            )
        } else {
            rounded(x)
        };
        for (w, y) in w.chunks(columns).zip(y) {
            let (mut exact, mut close, mut most, mut rounding) = (0.0, 0.0, 0.0, 0.0);
            let largest = w.iter().fold(0f32, |a, w| a.max(w.abs()));
            for (i, w) in w.iter().map(|w| f64::from(*w)).enumerate() {
                exact += w * f64::from(x[i]);
                close += w * seen[i];
                rounding += w.abs() * half[i];
                most += f64::from(largest) * f64::from(x[i].abs());
            }
            // A quotient just beside a half may be rounded the other way here: one step, in few places.
            let float = 1e-6 * most + 1e-30;
            let y = f64::from(*y);
            let steps = 2.5 * half.iter().fold(0.0, |a: f64, h| a.max(*h)) * f64::from(largest);
            assert!(
                (y - close).abs() <= float + steps,
                "{format:?}: {y}, rounded {close}"
            );
            assert!(
                (y - exact).abs() <= float + 1.01 * rounding,
                "{format:?}: {y}, exact {exact}"
            );
        }
    }
}

#[test]
fn a_row_comes_back_exactly_as_the_file_says() {
    let mut random = Random(1);
    for format in FORMATS {
        for rows in [1, 15, 16, 17, 40] {
            let columns = columns(format, 5);
            let bytes = random.weights(format, rows, columns);
            let wanted = dequantised(format, &bytes);
            let matrix = pack(format, &bytes, rows, columns);
            assert_eq!((matrix.rows(), matrix.columns()), (rows, columns));
            let mut got = vec![0.0; columns];
            for row in 0..rows {
                matrix.row(row, &mut got);
                assert_eq!(
                    bits(&got),
                    bits(&wanted[row * columns..][..columns]),
                    "{format:?}"
                );
            }
        }
    }
}

#[test]
fn packed_weights_take_the_room_of_the_file_and_little_more() {
    let mut random = Random(2);
    for format in FORMATS {
        let bytes = random.weights(format, 64, 1024);
        let more = match format {
            // Scales of 6 bits take a byte, and units begin at cache lines.
            Format::Q4_K | Format::Q5_K | Format::Q6_K => 1.03,
            _ => 1.0,
        };
        let packed = pack(format, &bytes, 64, 1024).bytes();
        assert!(
            packed as f64 <= bytes.len() as f64 * more,
            "{format:?}: {packed}"
        );
    }
}

#[test]
fn the_order_of_rows_can_be_changed_and_formats_mixed() {
    let mut random = Random(3);
    let (columns, m) = (256, 3);
    let formats = [Format::Q4_0, Format::F16, Format::Q6_K, Format::Q8_0];
    let stored: Vec<_> = formats.map(|f| (f, random.weights(f, 19, columns))).into();
    let order = |i: usize| (i * 7 + 3) % 19;
    let parts: Vec<_> = stored
        .iter()
        .map(|(format, bytes)| Part {
            format: *format,
            bytes,
            rows: 19,
            order: Some(&order),
        })
        .collect();
    let matrix = Matrix::pack(&parts, columns).unwrap();
    let x = random.numbers(m * columns);
    let compute = Compute::new(2);
    let mut y = vec![0.0; m * 19 * 4];
    compute.multiply(&matrix, &x, &mut y);
    for (part, (format, bytes)) in stored.iter().enumerate() {
        let mut alone = vec![0.0; m * 19];
        compute.multiply(&pack(*format, bytes, 19, columns), &x, &mut alone);
        let numbers = dequantised(*format, bytes);
        for i in 0..19 {
            let mut row = vec![0.0; columns];
            matrix.row(part * 19 + i, &mut row);
            assert_eq!(row, numbers[order(i) * columns..][..columns]);
            for t in 0..m {
                let (got, wanted) = (y[t * 76 + part * 19 + i], alone[t * 19 + order(i)]);
                assert_eq!(got.to_bits(), wanted.to_bits());
            }
        }
    }
}

#[test]
fn weights_that_contradict_their_shape_are_refused() {
    let order = |i: usize| i + 1;
    let part = |format, bytes, rows, order| {
        Matrix::pack(
            &[Part {
                format,
                bytes,
                rows,
                order,
            }],
            32,
        )
        .map(|_| ())
    };
    let bytes = [0u8; 36];
    assert_eq!(part(Format::Q4_0, &bytes, 2, None), Ok(()));
    let refused = part(Format::Q4_0, &bytes, 2, Some(&order));
    assert_eq!(refused, Err(KernelError::Row { row: 2, rows: 2 }));
    for rows in [1, 3, usize::MAX, usize::MAX / 18 + 1] {
        let refused = part(Format::Q4_0, &bytes, rows, None);
        assert!(matches!(refused, Err(KernelError::Length { .. })), "{rows}");
    }
    let refused = part(Format::Q4_K, &bytes, 1, None);
    assert!(matches!(refused, Err(KernelError::PartialBlock { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// All formats, odd shapes, one number of rows; values and bits.
    #[test]
    fn products_are_right_and_the_same_everywhere(
        seed: u64, rows in 1usize..70, n in 1usize..10, m in 1usize..20, size in -20i32..20,
    ) {
        let mut random = Random(seed);
        for format in FORMATS {
            let columns = columns(format, n);
            let bytes = random.weights(format, rows, columns);
            let matrix = pack(format, &bytes, rows, columns);
            let mut x = random.numbers(m * columns);
            for (i, x) in x.iter_mut().enumerate() {
                // Blocks of different sizes, some of them zero.
                *x *= [1.0, 0.0, 30.0, 1e-3][i / 32 % 4] * (size as f32).exp2();
            }
            let mut wanted = vec![f32::NAN; m * rows];
            Compute::with_isa(1, Isa::Portable).multiply(&matrix, &x, &mut wanted);
            check(format, &dequantised(format, &bytes), &x, &wanted, rows, columns);
            for compute in computes() {
                let mut y = vec![f32::NAN; m * rows];
                compute.multiply(&matrix, &x, &mut y);
                prop_assert_eq!(bits(&y), bits(&wanted), "{:?} {}", format, compute.name());
                // Each row alone.
                let mut one = vec![f32::NAN; rows];
                for (x, wanted) in x.chunks(columns).zip(wanted.chunks(rows)) {
                    compute.multiply(&matrix, x, &mut one);
                    prop_assert_eq!(bits(&one), bits(wanted), "{:?} {}", format, compute.name());
                }
            }
        }
    }
}

/// Enough rows and panels for several runs of panels, chunks of rows and threads.
#[test]
fn large_products_are_the_same_as_their_rows() {
    let mut random = Random(4);
    let (rows, columns, m) = (16 * 70 + 5, 4096, 67);
    for format in [Format::Q4_1, Format::Q8_0, Format::F16] {
        let bytes = random.weights(format, rows, columns);
        let matrix = pack(format, &bytes, rows, columns);
        let x = random.numbers(m * columns);
        let mut wanted = vec![0.0; m * rows];
        let alone = Compute::new(1);
        for (x, y) in x.chunks(columns).zip(wanted.chunks_mut(rows)) {
            alone.multiply(&matrix, x, y);
        }
        check(
            format,
            &dequantised(format, &bytes),
            &x[..columns],
            &wanted[..rows],
            rows,
            columns,
        );
        for threads in [1, 2, 3] {
            let mut y = vec![0.0; m * rows];
            Compute::new(threads).multiply(&matrix, &x, &mut y);
            assert!(bits(&y) == bits(&wanted), "{format:?}, {threads} threads");
        }
    }
}

#[test]
fn the_largest_codes_and_activations_do_not_overflow() {
    for format in FORMATS.into_iter().filter(|f| !is_plain(*f)) {
        let (rows, columns) = (16, 512);
        let mut bytes = vec![0xff; rows * columns / format.block_elements() * format.block_bytes()];
        for block in bytes.chunks_mut(format.block_bytes()) {
            let half = half::f16::from_f32(1.0).to_le_bytes();
            match format {
                Format::Q6_K => block[208..].copy_from_slice(&half),
                Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => {
                    block[..2].copy_from_slice(&half);
                    block[2..4].copy_from_slice(&half);
                }
                Format::Q8_0 => {
                    block.fill(0x7f);
                    block[..2].copy_from_slice(&half);
                }
                _ => block[..2].copy_from_slice(&half),
            }
        }
        let matrix = pack(format, &bytes, rows, columns);
        let w = dequantised(format, &bytes);
        for sign in [1.0, -1.0] {
            let x: Vec<_> = (0..columns)
                .map(|i| if i < 300 { 127.0 } else { 127.0 * sign })
                .collect();
            for compute in computes() {
                let mut y = vec![0.0; rows];
                compute.multiply(&matrix, &x, &mut y);
                check(format, &w, &x, &y, rows, columns);
            }
        }
    }
}

#[test]
fn zeros_give_zeros_and_what_is_not_finite_does_not_panic() {
    let mut random = Random(5);
    for format in FORMATS {
        let (rows, columns) = (17, columns(format, 9));
        let bytes = random.weights(format, rows, columns);
        let matrix = pack(format, &bytes, rows, columns);
        for compute in computes() {
            let mut y = vec![f32::NAN; rows];
            compute.multiply(&matrix, &vec![0.0; columns], &mut y);
            assert!(y.iter().all(|y| *y == 0.0), "{format:?}");
            compute.multiply(&matrix, &vec![1e-38; columns], &mut y);
            assert!(y.iter().all(|y| y.abs() < 1e-30), "{format:?}");
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![1.0; columns];
                x[columns / 2] = bad;
                compute.multiply(&matrix, &x, &mut y);
                assert!(y.iter().all(|y| !y.is_finite()), "{format:?} {bad}");
            }
            compute.multiply(&matrix, &vec![f32::MAX; columns], &mut y);
        }
    }
}

#[test]
fn no_rows_and_no_columns_are_products_too() {
    let empty = Matrix::pack(&[], 32).unwrap();
    Compute::new(2).multiply(&empty, &[], &mut []);
    let matrix = pack(Format::F32, &[0; 128], 1, 32);
    Compute::new(2).multiply(&matrix, &[], &mut []);
}

#[test]
#[should_panic(expected = "does not fit")]
fn shapes_that_contradict_one_another_panic() {
    let matrix = pack(Format::F32, &[0; 128], 1, 32);
    Compute::new(1).multiply(&matrix, &[0.0; 64], &mut [0.0]);
}
