//! The contract between the kernel programs and the agent: layouts of maps, records and settings.
//!
//! On the host this is a library of plain types; compiled for the kernel (`src/main.rs`) the same types lie in the
//! maps. No layout leaves the agent: what travels is converted first.
//!
//! # How a sync is counted
//! Every hook starts with one look-up of the calling process in `TARGETS`; a process that is not a target leaves there.
//! The begin of a sync is kept by thread ([`place`]); its end adds to the [`stats::ClassStats`] of (slot, class) in
//! `STATS`. Those counters only grow: user space maps the array read-only and takes differences, so neither side ever
//! resets what the other counts. Slow syncs and a sample of the others go through the ring buffer `RECORDS` besides.
//! What could not be counted or handed over is counted in `LOSS`, by program and reason.
//!
//! # How a device is watched
//! The block layer's tracepoints first look the request's queue up in `QUEUES`; a queue of a disk that is not in `DEVICES`
//! leaves there. A request is kept by its address ([`place`]) from its submission to its completion, whose record then goes
//! into the circular array `REQUESTS`; errors are counted in `FAILURES`. Commits of journals on those disks go into
//! `COMMITS`. User space maps both arrays and reads them when something was slow; whatever it does not read is overwritten.
//!
//! # Two ways to read
//! Most programs come twice. The kernel's own type information tells the verifier what the arguments of a typed tracepoint
//! are: such a program reads structures by plain loads. Where it does not (the tracepoint is in a module, the kernel is
//! older than 5.12) the same program reads each field by a helper that checks the address, which takes some 30 ns a field.
//!
//! # What else is seen of a watched process
//! Signals that stop, continue or end it go into the circular array `SIGNALS`. While its syncs wait for a journal, who changes
//! metadata of the filesystems in `JOURNALS` is summed up in `METADATA`.
//!
//! # Invariants
//! - Counters are added to atomically: the sum of all classes equals the number of syncs to the last one.
//! - No event ever wakes the reader.
//! - The class is told from the name at the begin of a sync and at each write: an inode's class changes with its name
//!   (`db.tmp.*` becomes `db`), so what is remembered of it is good only as long as its name's hash is the same.
#![no_std]

pub mod call;
pub mod class;
pub mod commit;
pub mod failure;
pub mod loss;
pub mod metadata;
pub mod offset;
pub mod page;
pub mod place;
pub mod record;
pub mod request;
pub mod signal;
pub mod stats;
pub mod sync;
pub mod target;
