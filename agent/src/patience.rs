//! Asking what may never answer: the memory and files of a process that anybody started, on a filesystem that may hang. Each
//! process is asked on a thread of its own, which is waited for only briefly; an answer that comes later is kept until
//! somebody asks again.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::discover::ProcessId;

/// How long an answer is waited for at first, unless said otherwise. Real ones take a millisecond.
const AT_FIRST: Duration = Duration::from_millis(100);

/// Questions that may be open at once: whoever starts more processes that hang is not looked at.
const OPEN_LIMIT: usize = 64;

/// Answers of type `T` about processes.
#[derive(Debug)]
pub struct Patience<T> {
    at_first: Duration,
    open: Arc<Mutex<BTreeMap<ProcessId, Arc<Question<T>>>>>,
}

#[derive(Debug)]
struct Question<T> {
    answer: Mutex<Option<T>>,
    answered: Condvar,
}

impl<T> Question<T> {
    /// Takes the answer. Its lock is given back here: others lock it while they hold that of all questions.
    fn wait(&self, patience: Duration) -> Option<T> {
        let answer = lock(&self.answer);
        let waited = self.answered.wait_timeout_while(answer, patience, |answer| answer.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl<T> Clone for Patience<T> {
    fn clone(&self) -> Self {
        Self { at_first: self.at_first, open: Arc::clone(&self.open) }
    }
}

impl<T> Default for Patience<T> {
    fn default() -> Self {
        Self { at_first: AT_FIRST, open: Arc::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + 'static> Patience<T> {
    /// Waits so long at first: for what is asked once only.
    pub fn of(at_first: Duration) -> Self {
        Self { at_first, ..Self::default() }
    }

    /// The answer of `ask`, or of an earlier one about the same process; `None` while there is none: ask again later.
    pub fn ask(&self, process: ProcessId, ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let earlier = lock(&self.open).get(&process).cloned();
        let (question, patience) = match earlier {
            Some(question) => (question, Duration::ZERO),
            None => (self.begin(process, ask)?, self.at_first),
        };
        let answer = question.wait(patience)?;
        lock(&self.open).remove(&process);
        Some(answer)
    }

    fn begin(
        &self,
        process: ProcessId,
        ask: impl FnOnce() -> T + Send + 'static,
    ) -> Option<Arc<Question<T>>> {
        let question = Arc::new(Question { answer: Mutex::new(None), answered: Condvar::new() });
        let mut open = lock(&self.open);
        if open.len() >= OPEN_LIMIT {
            return None;
        }
        let of_thread = Arc::clone(&question);
        let run = move || {
            let answer = ask();
            *lock(&of_thread.answer) = Some(answer);
            of_thread.answered.notify_all();
        };
        std::thread::Builder::new().name("ask".to_owned()).spawn(run).ok()?;
        open.insert(process, Arc::clone(&question));
        Some(question)
    }

    /// Processes that were asked and have not answered, and whether there are as many as there may be.
    pub fn silent(&self) -> (Vec<ProcessId>, bool) {
        let open = lock(&self.open);
        let silent = open.iter().filter(|(_, question)| lock(&question.answer).is_none());
        (silent.map(|(process, _)| *process).collect(), open.len() >= OPEN_LIMIT)
    }

    /// Forgets answers about processes that nobody will ask for any more. What has not answered keeps its place: its thread
    /// is still there.
    pub fn keep(&self, wanted: impl Fn(ProcessId) -> bool) {
        lock(&self.open).retain(|process, question| wanted(*process) || lock(&question.answer).is_none());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    const fn process(pid: u32) -> ProcessId {
        ProcessId { boot_id: [1; 16], pid, start_ticks: 3 }
    }

    #[test]
    fn an_answer_that_comes_late_is_kept_and_asking_again_waits_for_nothing() {
        let (patience, (let_go, held)) = (Patience::default(), channel::<()>());
        assert_eq!(patience.ask(process(1), || 7), Some(7));
        assert_eq!(patience.ask(process(2), move || held.recv().map_or(0, |()| 8)), None);
        let begin = Instant::now();
        for _ in 0..1_000 {
            assert_eq!(patience.ask(process(2), || panic!("asked already")), None);
        }
        assert!(begin.elapsed() < AT_FIRST * 100, "each would have waited");
        assert_eq!(patience.silent(), (vec![process(2)], false));
        let_go.send(()).expect("it waits");
        let begin = Instant::now();
        let late = loop {
            if let Some(late) = patience.ask(process(2), || panic!("asked already")) {
                break late;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "the answer is lost");
            std::thread::sleep(Duration::from_millis(1));
        };
        assert_eq!((late, patience.silent()), (8, (vec![], false)));
    }

    #[test]
    fn who_asks_and_who_looks_for_the_silent_never_wait_for_each_other() {
        let (patience, (done, told)) = (Patience::default(), channel());
        for asker in 0..2 {
            let (patience, done) = (patience.clone(), done.clone());
            std::thread::spawn(move || {
                for number in 0..2_000 {
                    let _late = patience.ask(process(asker), move || number);
                    patience.keep(|of| of == process(asker));
                    let _silent = patience.silent();
                }
                let _ = done.send(());
            });
        }
        for _ in 0..2 {
            told.recv_timeout(Duration::from_secs(60)).expect("they wait for each other");
        }
    }

    #[test]
    fn what_hangs_keeps_its_place_and_there_are_so_many_places() {
        let patience = Patience::default();
        let mut holders = Vec::new();
        for pid in 0..OPEN_LIMIT as u32 {
            let (let_go, held) = channel::<()>();
            holders.push(let_go);
            // Begun without waiting for the answer.
            assert!(patience.begin(process(pid), move || held.recv().unwrap_or(())).is_some());
        }
        patience.keep(|_| false);
        assert_eq!(patience.silent().0.len(), OPEN_LIMIT);
        assert_eq!(patience.ask(process(1_000), || ()), None);
        holders.clear();
        let begin = Instant::now();
        while !patience.silent().0.is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20), "they were let go");
            std::thread::sleep(Duration::from_millis(1));
        }
        patience.keep(|_| false);
        assert_eq!(patience.ask(process(1_000), || ()), Some(()));
    }
}
