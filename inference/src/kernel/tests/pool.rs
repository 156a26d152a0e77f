use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::kernel::Compute;

#[test]
fn every_part_runs_exactly_once() {
    for threads in [1, 2, 5] {
        let compute = Compute::new(threads);
        for _ in 0..2000 {
            let counts: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            compute.run(&|part, parts| {
                assert_eq!(parts, threads);
                counts[part].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn a_panic_in_a_part_reaches_the_caller_and_the_pool_survives() {
    let compute = Compute::new(3);
    for bad in 0..3 {
        let done = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            compute.run(&|part, _| {
                if part == bad {
                    std::panic::resume_unwind(Box::new("part"));
                }
                done.fetch_add(1, Ordering::Relaxed);
            });
        }));
        assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"part"));
        assert_eq!(done.into_inner(), 2);
    }
    let count = AtomicUsize::new(0);
    compute.run(&|_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), 3);
}

#[test]
fn work_within_work_is_done_by_the_thread_that_asks() {
    let compute = Compute::new(2);
    let seen = Mutex::new(vec![]);
    compute.run(&|_, _| {
        compute.run(&|part, parts| seen.lock().unwrap().push((part, parts)));
    });
    assert_eq!(seen.into_inner().unwrap(), [(0, 1), (0, 1)]);
}

#[test]
fn many_callers_share_one_pool() {
    let compute = Compute::new(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let sum = AtomicUsize::new(0);
                    compute.run(&|part, parts| {
                        sum.fetch_add(100 / parts + part, Ordering::Relaxed);
                    });
                    let sum = sum.into_inner();
                    assert!(sum == 100 || sum == 101);
                }
            });
        }
    });
}
