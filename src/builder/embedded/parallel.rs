//! The same work on many things, on all processors.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Returns how many threads work at once.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Calls `work` once with each of `items`, in any order, and returns the results in the order of the items.
///
/// # Errors
/// One of the errors of `work`; after an error no new calls are started.
pub(super) fn map<T: Sync, R: Send, E: Send>(items: &[T], work: impl Fn(&T) -> Result<R, E> + Sync) -> Result<Vec<R>, E> {
    let threads = threads().min(items.len());
    if threads <= 1 {
        return items.iter().map(work).collect();
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::with_capacity(items.len()));
    let error: Mutex<Option<E>> = Mutex::new(None);
    let run = || {
        let mut mine = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            match work(item) {
                Ok(result) => mine.push((index, result)),
                Err(failed) => {
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failed);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).extend(mine);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(run);
        }
        run();
    });
    if let Some(error) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_and_an_error_ends_it() {
        let items: Vec<u32> = (0..1000).collect();
        let doubled: Result<Vec<u32>, ()> = map(&items, |item| Ok(item * 2));
        assert_eq!(doubled, Ok(items.iter().map(|item| item * 2).collect()));
        assert_eq!(map(&items, |item| if *item == 500 { Err("here") } else { Ok(()) }), Err("here"));
    }
}
