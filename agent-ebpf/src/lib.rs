//! The contract between the kernel programs and the agent: layouts of maps, records and settings.
//!
//! On the host this is a library of plain types; compiled for the kernel (`src/main.rs`) the same types lie in the
//! maps. No layout leaves the agent: what travels is converted first.
//!
//! # How a sync is counted
//! Every hook starts with one look-up of the calling process in `TARGETS`; a process that is not a target leaves there.
//! The begin of a sync is kept by thread in `SYNCS`; its end adds to the [`stats::ClassStats`] of (slot, class) in
//! `STATS`. Those counters only grow: user space maps the array read-only and takes differences, so neither side ever
//! resets what the other counts. Slow syncs and a sample of the others go through the ring buffer `RECORDS` besides.
//! What could not be counted or handed over is counted in `LOSS`, by program and reason.
//!
//! # How a device is watched
//! The block layer's tracepoints first look the request's queue up in `QUEUES`; a queue of a disk that is not in `DEVICES`
//! leaves there. A request is kept in `IN_FLIGHT` from its submission to its completion, whose record then goes into the
//! circular array `REQUESTS`; its user's totals are in `USAGE`, and errors are counted in `FAILURES`. Commits of journals on those disks go into `COMMITS`. User
//! space maps both arrays and reads them when something was slow; whatever it does not read is overwritten.
//!
//! # What else is seen of a watched process
//! Signals that stop, continue or end it go into the circular array `SIGNALS`. While its syncs wait for a journal, who changes
//! metadata of the filesystems in `JOURNALS` is summed up in `METADATA`.
//!
//! # Invariants
//! - Counters are added to atomically: the sum of all classes equals the number of syncs to the last one.
//! - No event ever wakes the reader.
//! - The class is told from the name at the *end* of a sync: `0.tmp` may have become a WAL segment meanwhile.
#![no_std]

pub mod call;
pub mod class;
pub mod commit;
pub mod failure;
pub mod loss;
pub mod metadata;
pub mod offset;
pub mod record;
pub mod request;
pub mod signal;
pub mod stats;
pub mod target;
pub mod usage;
