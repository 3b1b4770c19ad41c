//! The thread that owns the spool: its file system calls may take long on a busy disk, and nothing else may wait for them.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};

use super::{Batch, BatchId, Dropped, Files, Keys, Limits, Outgoing, Recovery, Spool};
use crate::clock::mono_ns;
use crate::encode::Account;
use crate::telemetry::Telemetry;

/// Commands that may wait. When the disk hangs, at most so many batches pile up here; then the hub keeps the next one.
const COMMANDS_LIMIT: usize = 32;

#[derive(Debug)]
enum Command {
    Push(Box<Batch>),
    Take(oneshot::Sender<Outgoing>),
    Acknowledge(BatchId),
    Refuse(BatchId),
    Tick,
    Close(oneshot::Sender<()>),
}

/// How the rest of the agent reaches the spool.
#[derive(Debug, Clone)]
pub struct SpoolHandle {
    commands: mpsc::Sender<Command>,
    telemetry: Arc<Telemetry>,
}

impl SpoolHandle {
    /// Adds a batch, or gives it back when the thread is stuck.
    ///
    /// # Errors
    /// The batch.
    pub fn try_push(&self, batch: Box<Batch>) -> Result<(), Box<Batch>> {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.commands.try_send(Command::Push(batch)) {
            Ok(()) => Ok(()),
            Err(Full(Command::Push(batch)) | Closed(Command::Push(batch))) => Err(batch),
            Err(_) => Ok(()),
        }
    }

    /// Adds a batch, however long it takes.
    pub async fn push(&self, batch: Box<Batch>) {
        if self.commands.send(Command::Push(batch)).await.is_err() {
            tracing::error!("the spool's thread has ended: a batch is lost");
        }
    }

    /// Accounts for a batch that never got into the spool.
    pub fn give_up(&self, batch: &Batch, account: &Mutex<Account>) {
        let dropped = Dropped {
            reason: "spool_stuck",
            counts: batch.counts,
            begin_ns: batch.span_ns.0,
            payload: Some(batch.payload.clone()),
        };
        account_for(&[dropped], account, &self.telemetry);
    }

    /// The next batch to send, as soon as there is one. `None` when the spool is closed.
    pub async fn take(&self) -> Option<Outgoing> {
        let (reply, wait) = oneshot::channel();
        self.commands.send(Command::Take(reply)).await.ok()?;
        wait.await.ok()
    }

    /// Forgets a batch that is durable at the far end.
    pub async fn acknowledge(&self, id: BatchId) {
        self.tell(Command::Acknowledge(id)).await;
    }

    /// Forgets a batch that the far end will never take, and accounts for it.
    pub async fn refuse(&self, id: BatchId) {
        self.tell(Command::Refuse(id)).await;
    }

    /// What is due once a second.
    pub fn tick(&self) {
        let _busy = self.commands.try_send(Command::Tick);
    }

    /// Writes everything that is unacknowledged to disk and ends the thread.
    pub async fn close(&self) {
        let (done, wait) = oneshot::channel();
        self.tell(Command::Close(done)).await;
        let _thread_ended = wait.await;
    }

    async fn tell(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            tracing::debug!("the spool's thread has ended");
        }
    }
}

/// Opens the spool and starts its thread. Drops are added to `account`.
///
/// # Errors
/// When the directory can't be listed, or the thread not be started.
pub fn start(
    files: Box<dyn Files>,
    limits: Limits,
    keys: Keys,
    epoch: [u8; 16],
    account: Arc<Mutex<Account>>,
    telemetry: Arc<Telemetry>,
) -> io::Result<(SpoolHandle, Recovery)> {
    let (spool, recovery) = Spool::open(files, limits, keys, epoch)?;
    account_for(&recovery.dropped, &account, &telemetry);
    for corruption in &recovery.corruptions {
        telemetry.spool_corrupt_bytes.inc_by(corruption.bytes);
        tracing::warn!(
            file = %corruption.file,
            offset = corruption.offset,
            bytes = corruption.bytes,
            what = corruption.what,
            "part of the spool can't be read and is skipped"
        );
    }
    let (commands, receiver) = mpsc::channel(COMMANDS_LIMIT);
    let handle = SpoolHandle { commands, telemetry: Arc::clone(&telemetry) };
    std::thread::Builder::new().name("spool".to_owned()).spawn(move || {
        yield_disk();
        run(spool, receiver, &account, &telemetry);
    })?;
    Ok((handle, recovery))
}

/// Lets everybody else go first where the disk's scheduler knows priorities: that is for reading a backlog back, as what is written
/// goes out with the kernel's own threads. Not the idle class: a thread that waits for ever in it could hold up etcd's journal.
fn yield_disk() {
    const WHO_PROCESS: libc::c_int = 1;
    const BEST_EFFORT_LOWEST: libc::c_int = (2 << 13) | 7;
    // SAFETY: the call takes numbers alone; 0 is the calling thread.
    let set = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT_LOWEST) };
    if set != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "the spool's thread keeps its IO priority");
    }
}

fn run(
    mut spool: Spool<Box<dyn Files>>,
    mut commands: mpsc::Receiver<Command>,
    account: &Mutex<Account>,
    telemetry: &Telemetry,
) {
    // The sender waits for a batch with at most one request at a time.
    let mut waiting: Option<oneshot::Sender<Outgoing>> = None;
    while let Some(command) = commands.blocking_recv() {
        let dropped = match command {
            Command::Push(batch) => spool.push(*batch, mono_ns()),
            Command::Tick => spool.tick(mono_ns()),
            Command::Acknowledge(id) => {
                spool.acknowledge(id);
                Vec::new()
            }
            Command::Refuse(id) => spool.refuse(id).into_iter().collect(),
            Command::Take(reply) => {
                waiting = Some(reply);
                Vec::new()
            }
            Command::Close(done) => {
                let dropped = spool.write_all(mono_ns());
                account_for(&dropped, account, telemetry);
                let usage = spool.usage();
                tracing::info!(batches = usage.batches, disk_bytes = usage.disk_bytes, "spool closed");
                let _nobody_waits = done.send(());
                return;
            }
        };
        account_for(&dropped, account, telemetry);
        waiting = serve(&mut spool, waiting, account, telemetry);
        telemetry.spool(spool.usage());
    }
}

/// Answers the sender if there is something to send; else it goes on waiting.
fn serve(
    spool: &mut Spool<Box<dyn Files>>,
    waiting: Option<oneshot::Sender<Outgoing>>,
    account: &Mutex<Account>,
    telemetry: &Telemetry,
) -> Option<oneshot::Sender<Outgoing>> {
    // A request whose sender was cancelled must not take a batch with it.
    let reply = waiting.filter(|reply| !reply.is_closed())?;
    let (next, unreadable) = spool.take();
    account_for(&unreadable, account, telemetry);
    let Some(outgoing) = next else { return Some(reply) };
    if let Err(returned) = reply.send(outgoing) {
        spool.give_back(returned.id);
    }
    None
}

fn account_for(dropped: &[Dropped], account: &Mutex<Account>, telemetry: &Telemetry) {
    if dropped.is_empty() {
        return;
    }
    let mut account = match account.lock() {
        Ok(account) => account,
        Err(poisoned) => poisoned.into_inner(),
    };
    for dropped in dropped {
        telemetry.dropped(dropped);
        tracing::warn!(reason = dropped.reason, syncs = dropped.counts.syncs, "batch dropped");
        account.add_dropped(dropped);
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A spool that hands over what it gets.

    use super::*;

    /// What got into the spool.
    pub struct Received(mpsc::Receiver<Command>);

    impl Received {
        /// The next batch, if there is one.
        pub fn next(&mut self) -> Option<Batch> {
            match self.0.try_recv() {
                Ok(Command::Push(batch)) => Some(*batch),
                _ => None,
            }
        }
    }

    /// A handle, and where what it is told arrives.
    pub fn recorder() -> (SpoolHandle, Received) {
        let (commands, receiver) = mpsc::channel(COMMANDS_LIMIT);
        (SpoolHandle { commands, telemetry: Arc::default() }, Received(receiver))
    }
}
