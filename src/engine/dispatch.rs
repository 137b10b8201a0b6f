//! The one loop of a run: it owns order, concurrency, cancellation and the stream of events. What a task does is not its
//! business; tasks own their state and tell about it through a bounded channel.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::event::{CancelReason, Direction, Event, EventKind, EventSink};
use crate::oci::Platform;
use crate::time::{Clock, Timestamp};

/// One piece of work and what must have ended well before it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Task {
    /// Positions of tasks in the same list.
    pub needs: Vec<usize>,
    /// How long it is likely to take, in any unit that all tasks share.
    pub cost: u64,
}

/// What a failure does to the rest of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnFailure {
    /// Only what needs the failed task is skipped.
    KeepGoing,
    /// What runs is finished, nothing else is started.
    #[default]
    Finish,
    /// What runs is cancelled.
    Cancel,
}

/// Bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many tasks run at once; at least one.
    pub jobs: usize,
    /// What a failure does to the rest.
    pub on_failure: OnFailure,
    /// After how long the run is cancelled.
    pub timeout: Option<Duration>,
}

/// How a task ended.
#[derive(Debug)]
pub enum Ended<T, E> {
    /// Well.
    Done(T),
    /// With an error of its own.
    Failed(E),
    /// It was not started because of a failed task, whose position this is.
    Skipped(usize),
    /// It was stopped, or not started, because the run was ended early.
    Cancelled,
}

/// What came of all tasks.
#[derive(Debug)]
pub struct Outcomes<T, E> {
    /// One for each task, in their order.
    pub ended: Vec<Ended<T, E>>,
    /// Why the run was ended early, if it was.
    pub cancelled: Option<CancelReason>,
}

/// Tells the loop what happens in a task. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Teller {
    channel: mpsc::Sender<EventKind>,
    meters: Arc<Mutex<Vec<Arc<Meter>>>>,
}

/// Counts the bytes of one task's transfers; sampled by the loop, so that counting costs next to nothing.
#[derive(Debug)]
pub struct Meter {
    package: String,
    platform: Option<Platform>,
    direction: Direction,
    done: AtomicU64,
    total: AtomicU64,
    told: AtomicU64,
}

/// How often meters are looked at.
const TICK: Duration = Duration::from_millis(100);

/// Events that may wait for a slow reporter before tasks have to.
const BACKLOG: usize = 256;

impl Teller {
    /// Tells from asynchronous code; waits while the reporter is behind.
    pub fn tell(&self, kind: EventKind) -> impl Future<Output = ()> + Send + use<> {
        // The sender goes into the future, so that it is `Send` for any lifetime of `self`.
        let channel = self.channel.clone();
        async move {
            // The loop is gone only after a second interrupt; nobody is left to be told.
            let _ = channel.send(kind).await;
        }
    }

    /// Tells from a thread that may block.
    pub fn tell_blocking(&self, kind: EventKind) {
        let _ = self.channel.blocking_send(kind);
    }

    /// Tells if there is room, else drops: for output that must never hold its source up and is kept elsewhere, too.
    pub fn try_tell(&self, kind: EventKind) -> bool {
        self.channel.try_send(kind).is_ok()
    }

    /// Returns a new meter that the loop looks at until it is dropped.
    pub fn meter(&self, package: &str, platform: Option<&Platform>, direction: Direction) -> Arc<Meter> {
        let meter = Arc::new(Meter {
            package: package.to_owned(),
            platform: platform.cloned(),
            direction,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            told: AtomicU64::new(0),
        });
        self.meters.lock().expect("no holder panics").push(Arc::clone(&meter));
        meter
    }
}

impl Meter {
    /// Sets both counts.
    pub fn set(&self, done: u64, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    /// Counts `bytes` as done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` as expected.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    fn news(&self) -> Option<EventKind> {
        let done = self.done.load(Ordering::Relaxed);
        (self.told.swap(done, Ordering::Relaxed) != done).then(|| EventKind::Transfer {
            package: self.package.clone(),
            platform: self.platform.clone(),
            direction: self.direction,
            done,
            total: self.total.load(Ordering::Relaxed),
        })
    }
}

/// The outside of a run: where time comes from, where events go, who may interrupt it.
pub struct Outside<'a> {
    /// For the times of events.
    pub clock: &'a dyn Clock,
    /// Start of the run.
    pub started: Timestamp,
    /// Takes the events.
    pub sink: &'a dyn EventSink,
    /// Interrupts: the first one cancels, the second returns at once.
    pub interrupts: mpsc::Receiver<CancelReason>,
}

impl Outside<'_> {
    /// Reports one event.
    pub fn emit(&self, kind: EventKind) {
        let at = self.clock.now();
        self.sink.emit(Event { at, elapsed: at.since(self.started), kind });
    }
}

/// Sends the interrupts of this process (SIGINT, SIGTERM) to the returned channel.
///
/// # Errors
/// When the system refuses to deliver signals to us.
pub fn listen() -> std::io::Result<mpsc::Receiver<CancelReason>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = mpsc::channel(4);
    for (kind, reason) in [(SignalKind::interrupt(), CancelReason::Interrupt), (SignalKind::terminate(), CancelReason::Terminate)]
    {
        let mut stream = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(reason).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(receiver)
}

/// Runs `tasks` in order of their needs, those with the longest path behind them first, and returns how each ended.
///
/// `start` makes the work of a task; `was_cancelled` tells the error of a task that gave up because of `cancel` from one
/// of its own.
///
/// # Panics
/// When a task needs one that is not in the list, or needs itself over any path.
pub async fn dispatch<T, E, F>(
    tasks: &[Task],
    limits: Limits,
    outside: &mut Outside<'_>,
    cancel: &CancellationToken,
    work: Work<'_, F, E>,
) -> Outcomes<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let (channel, mut told) = mpsc::channel(BACKLOG);
    let teller = Teller { channel, meters: Arc::default() };
    let mut state = State::new(tasks);
    let mut running: JoinSet<(usize, Result<T, E>)> = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let deadline = async {
        match limits.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut listening = true;
    let mut warned = BTreeSet::new();
    loop {
        while state.cancelled.is_none() && running.len() < limits.jobs.max(1) {
            let Some(next) = state.next() else { break };
            let future = (work.start)(next, teller.clone());
            running.spawn(async move { (next, future.await) });
        }
        if running.is_empty() {
            break;
        }
        tokio::select! {
            biased;
            interrupt = outside.interrupts.recv(), if listening => match interrupt {
                None => listening = false,
                Some(_) if state.cancelled.is_some_and(|reason| reason != CancelReason::FailFast) => break,
                Some(reason) => state.cancel(reason, cancel, outside),
            },
            () = &mut deadline, if state.cancelled.is_none() => state.cancel(CancelReason::Timeout, cancel, outside),
            Some(kind) = told.recv() => pass_on(kind, &mut warned, outside),
            Some(joined) = running.join_next() => {
                let (at, result) = match joined {
                    Ok(ended) => ended,
                    Err(failed) => std::panic::resume_unwind(failed.into_panic()),
                };
                // What the task told before it ended is reported before its end.
                while let Ok(kind) = told.try_recv() {
                    pass_on(kind, &mut warned, outside);
                }
                let ended = match result {
                    Ok(value) => Ended::Done(value),
                    Err(error) if state.cancelled.is_some() && (work.was_cancelled)(&error) => Ended::Cancelled,
                    Err(error) => Ended::Failed(error),
                };
                let failed = matches!(ended, Ended::Failed(_));
                state.end(at, ended);
                if failed {
                    match limits.on_failure {
                        OnFailure::KeepGoing => {}
                        OnFailure::Finish => state.stopped_by = state.stopped_by.or(Some(at)),
                        OnFailure::Cancel if state.cancelled.is_none() => {
                            state.stopped_by = Some(at);
                            state.cancel(CancelReason::FailFast, cancel, outside);
                        }
                        OnFailure::Cancel => {}
                    }
                }
            }
            _ = tick.tick() => {
                let mut meters = teller.meters.lock().expect("no holder panics");
                for news in meters.iter().filter_map(|meter| meter.news()) {
                    outside.emit(news);
                }
                meters.retain(|meter| Arc::strong_count(meter) > 1);
            }
        }
    }
    state.finish()
}

/// Reports what a task told; a warning that another platform of the package told word for word is not told again.
fn pass_on(kind: EventKind, warned: &mut BTreeSet<(Option<String>, String)>, outside: &Outside<'_>) {
    if let EventKind::Warning { package, message } = &kind
        && !warned.insert((package.clone(), message.clone()))
    {
        return;
    }
    outside.emit(kind);
}

/// What the tasks of a run do.
pub struct Work<'a, F, E> {
    /// Makes the work of the task at a position.
    pub start: &'a (dyn Fn(usize, Teller) -> F + Send + Sync),
    /// Whether an error only says that the task was cancelled.
    pub was_cancelled: fn(&E) -> bool,
}

struct State<T, E> {
    ended: Vec<Option<Ended<T, E>>>,
    /// How many needs of each task have not ended yet.
    waits: Vec<usize>,
    needed_by: Vec<Vec<usize>>,
    /// Cost of the longest path from the start of each task to the end of the run.
    rank: Vec<u64>,
    ready: BinaryHeap<(u64, Reverse<usize>)>,
    stopped_by: Option<usize>,
    cancelled: Option<CancelReason>,
}

impl<T, E> State<T, E> {
    fn new(tasks: &[Task]) -> Self {
        let mut needed_by = vec![Vec::new(); tasks.len()];
        for (at, task) in tasks.iter().enumerate() {
            for &need in &task.needs {
                needed_by[need].push(at);
            }
        }
        let waits: Vec<usize> = tasks.iter().map(|task| task.needs.len()).collect();
        let rank = ranks(tasks, &needed_by);
        let ready = waits.iter().enumerate().filter(|(_, n)| **n == 0).map(|(at, _)| (rank[at], Reverse(at))).collect();
        let ended = tasks.iter().map(|_| None).collect();
        Self { ended, waits, needed_by, rank, ready, stopped_by: None, cancelled: None }
    }

    fn next(&mut self) -> Option<usize> {
        if self.stopped_by.is_some() {
            return None;
        }
        self.ready.pop().map(|(_, Reverse(at))| at)
    }

    fn cancel(&mut self, reason: CancelReason, token: &CancellationToken, outside: &Outside<'_>) {
        self.cancelled = Some(reason);
        outside.emit(EventKind::Cancelling { reason });
        token.cancel();
    }

    fn end(&mut self, at: usize, ended: Ended<T, E>) {
        match &ended {
            Ended::Done(_) => {
                for &waiting in &self.needed_by[at] {
                    self.waits[waiting] -= 1;
                    if self.waits[waiting] == 0 && self.ended[waiting].is_none() {
                        self.ready.push((self.rank[waiting], Reverse(waiting)));
                    }
                }
            }
            Ended::Failed(_) => self.skip_dependants(at),
            Ended::Skipped(_) | Ended::Cancelled => {}
        }
        self.ended[at] = Some(ended);
    }

    fn skip_dependants(&mut self, failed: usize) {
        let mut open = self.needed_by[failed].clone();
        while let Some(at) = open.pop() {
            if self.ended[at].is_none() {
                self.ended[at] = Some(Ended::Skipped(failed));
                open.extend(&self.needed_by[at]);
            }
        }
    }

    fn finish(self) -> Outcomes<T, E> {
        let stopped_by = self.stopped_by;
        let ended = self
            .ended
            .into_iter()
            .map(|ended| ended.unwrap_or_else(|| stopped_by.map_or(Ended::Cancelled, Ended::Skipped)))
            .collect();
        Outcomes { ended, cancelled: self.cancelled }
    }
}

/// Returns tasks that need each other in a circle, each the next, or `None` when there are none.
pub fn cycle(tasks: &[Task]) -> Option<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Never,
        OnPath,
        Done,
    }
    let mut seen = vec![Seen::Never; tasks.len()];
    for root in 0..tasks.len() {
        // The path from the root, each with how many of its needs were followed.
        let mut path = if seen[root] == Seen::Never { vec![(root, 0)] } else { Vec::new() };
        while let Some((at, followed)) = path.last_mut() {
            seen[*at] = Seen::OnPath;
            let Some(&need) = tasks[*at].needs.get(*followed) else {
                seen[*at] = Seen::Done;
                path.pop();
                continue;
            };
            *followed += 1;
            match seen[need] {
                Seen::Never => path.push((need, 0)),
                Seen::OnPath => {
                    let start = path.iter().position(|(at, _)| *at == need).expect("it is on the path");
                    return Some(path[start..].iter().map(|(at, _)| *at).collect());
                }
                Seen::Done => {}
            }
        }
    }
    None
}

/// Returns, for each task, its own cost and that of the longest path of tasks behind it.
fn ranks(tasks: &[Task], needed_by: &[Vec<usize>]) -> Vec<u64> {
    let mut rank: Vec<u64> = tasks.iter().map(|task| task.cost).collect();
    let mut waits: Vec<usize> = needed_by.iter().map(Vec::len).collect();
    let mut open: Vec<usize> = (0..tasks.len()).filter(|at| waits[*at] == 0).collect();
    let mut seen = 0;
    while let Some(at) = open.pop() {
        seen += 1;
        for &need in &tasks[at].needs {
            rank[need] = rank[need].max(tasks[need].cost + rank[at]);
            waits[need] -= 1;
            if waits[need] == 0 {
                open.push(need);
            }
        }
    }
    assert_eq!(seen, tasks.len(), "tasks need each other in a cycle");
    rank
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::Recorder;
    use crate::time::SystemClock;

    #[derive(Debug, PartialEq)]
    enum Failure {
        Own,
        Cancelled,
    }

    struct Run {
        outcomes: Outcomes<usize, Failure>,
        order: Vec<usize>,
        most_at_once: usize,
        events: Vec<EventKind>,
    }

    struct Setting {
        jobs: usize,
        on_failure: OnFailure,
        fails: &'static [usize],
        endless: &'static [usize],
        interrupts: usize,
        timeout: Option<Duration>,
    }

    const PLAIN: Setting =
        Setting { jobs: 1, on_failure: OnFailure::Finish, fails: &[], endless: &[], interrupts: 0, timeout: None };

    fn tasks(needs: &[(&[usize], u64)]) -> Vec<Task> {
        needs.iter().map(|(needs, cost)| Task { needs: needs.to_vec(), cost: *cost }).collect()
    }

    async fn run(tasks: &[Task], setting: Setting) -> Run {
        let recorder = Recorder::default();
        let (sender, interrupts) = mpsc::channel(4);
        let clock = SystemClock;
        let mut outside = Outside { clock: &clock, started: clock.now(), sink: &recorder, interrupts };
        let cancel = CancellationToken::new();
        let order = Arc::new(Mutex::new((Vec::new(), 0_usize, 0_usize)));
        let (fails, endless) = (setting.fails, setting.endless);
        let start = |at: usize, teller: Teller| {
            let (order, cancel) = (Arc::clone(&order), cancel.clone());
            async move {
                {
                    let mut order = order.lock().expect("no panic");
                    order.0.push(at);
                    order.1 += 1;
                    order.2 = order.2.max(order.1);
                }
                teller.tell(EventKind::Warning { package: None, message: format!("task {at}") }).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
                let result = if endless.contains(&at) {
                    cancel.cancelled().await;
                    Err(Failure::Cancelled)
                } else if fails.contains(&at) {
                    Err(Failure::Own)
                } else {
                    Ok(at)
                };
                order.lock().expect("no panic").1 -= 1;
                result
            }
        };
        let was_cancelled = |error: &Failure| *error == Failure::Cancelled;
        let limits = Limits { jobs: setting.jobs, on_failure: setting.on_failure, timeout: setting.timeout };
        let interrupter = tokio::spawn(async move {
            for _ in 0..setting.interrupts {
                tokio::time::sleep(Duration::from_millis(40)).await;
                sender.send(CancelReason::Interrupt).await.expect("the loop runs");
            }
            std::future::pending::<()>().await;
        });
        let outcomes = dispatch(tasks, limits, &mut outside, &cancel, Work { start: &start, was_cancelled }).await;
        interrupter.abort();
        let order = order.lock().expect("no panic");
        Run { outcomes, order: order.0.clone(), most_at_once: order.2, events: recorder.kinds() }
    }

    #[tokio::test]
    async fn the_longest_path_starts_first_and_needs_come_before_what_needs_them() {
        // 0 is short; 1 → 2 → 3 is the longest path; 4 is long alone but shorter than that path.
        let run = run(&tasks(&[(&[], 1), (&[], 2), (&[1], 2), (&[2], 2), (&[], 5)]), PLAIN).await;
        assert_eq!(run.order, [1, 4, 2, 3, 0]);
        assert!(run.outcomes.ended.iter().all(|ended| matches!(ended, Ended::Done(_))));
        assert_eq!(run.events.len(), 5, "every task's event is reported");
    }

    #[test]
    fn a_circle_is_found_wherever_it_is() {
        assert_eq!(cycle(&tasks(&[(&[], 1), (&[0], 1), (&[0, 1], 1)])), None);
        assert_eq!(cycle(&tasks(&[(&[], 1), (&[3, 0], 1), (&[1], 1), (&[2], 1)])), Some(vec![1, 3, 2]));
        assert_eq!(cycle(&tasks(&[(&[0], 1)])), Some(vec![0]));
    }

    #[tokio::test]
    async fn no_more_than_jobs_run_at_once_and_that_many_do() {
        let many: Vec<Task> = (0..20).map(|_| Task { needs: Vec::new(), cost: 1 }).collect();
        assert_eq!(run(&many, Setting { jobs: 3, ..PLAIN }).await.most_at_once, 3);
    }

    #[tokio::test]
    async fn keep_going_skips_only_what_needs_the_failed_task() {
        let graph = tasks(&[(&[], 9), (&[0], 1), (&[1], 1), (&[], 1)]);
        let run = run(&graph, Setting { fails: &[0], on_failure: OnFailure::KeepGoing, ..PLAIN }).await;
        assert!(matches!(
            run.outcomes.ended[..],
            [Ended::Failed(Failure::Own), Ended::Skipped(0), Ended::Skipped(0), Ended::Done(3)]
        ));
    }

    #[tokio::test]
    async fn by_default_a_failure_lets_the_running_finish_and_starts_nothing() {
        let graph = tasks(&[(&[], 9), (&[], 8), (&[], 1)]);
        let run = run(&graph, Setting { fails: &[0], jobs: 2, ..PLAIN }).await;
        assert!(matches!(run.outcomes.ended[..], [Ended::Failed(_), Ended::Done(1), Ended::Skipped(0) | Ended::Done(2)]));
        assert_eq!(run.outcomes.cancelled, None);
    }

    #[tokio::test]
    async fn fail_fast_cancels_the_running() {
        let graph = tasks(&[(&[], 9), (&[], 8), (&[], 1)]);
        let run = run(&graph, Setting { fails: &[0], endless: &[1], jobs: 2, on_failure: OnFailure::Cancel, ..PLAIN }).await;
        assert!(matches!(run.outcomes.ended[..], [Ended::Failed(_), Ended::Cancelled, Ended::Skipped(0)]));
        assert_eq!(run.outcomes.cancelled, Some(CancelReason::FailFast));
    }

    #[tokio::test]
    async fn the_first_interrupt_cancels_and_waits() {
        let run = run(&tasks(&[(&[], 1), (&[0], 1)]), Setting { endless: &[0], interrupts: 1, ..PLAIN }).await;
        assert!(matches!(run.outcomes.ended[..], [Ended::Cancelled, Ended::Cancelled]));
        assert_eq!(run.outcomes.cancelled, Some(CancelReason::Interrupt));
        assert!(run.events.contains(&EventKind::Cancelling { reason: CancelReason::Interrupt }));
    }

    #[tokio::test]
    async fn the_second_interrupt_does_not_wait() {
        let (sender, interrupts) = mpsc::channel(4);
        let clock = SystemClock;
        let recorder = Recorder::default();
        let mut outside = Outside { clock: &clock, started: clock.now(), sink: &recorder, interrupts };
        sender.send(CancelReason::Interrupt).await.expect("room");
        sender.send(CancelReason::Interrupt).await.expect("room");
        let start = |_: usize, _: Teller| std::future::pending::<Result<(), ()>>();
        let limits = Limits { jobs: 1, on_failure: OnFailure::Finish, timeout: None };
        let work = Work { start: &start, was_cancelled: |()| true };
        let token = CancellationToken::new();
        let ended = dispatch(&[Task::default()], limits, &mut outside, &token, work).await;
        assert!(matches!(ended.ended[..], [Ended::Cancelled]));
    }

    #[tokio::test]
    async fn a_time_limit_cancels() {
        let setting = Setting { endless: &[0], timeout: Some(Duration::from_millis(30)), ..PLAIN };
        assert_eq!(run(&tasks(&[(&[], 1)]), setting).await.outcomes.cancelled, Some(CancelReason::Timeout));
    }
}
