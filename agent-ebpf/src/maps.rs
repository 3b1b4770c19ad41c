//! Maps shared by the programs, with their sizes and reasons.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, RingBuf},
};
use etcdmon_agent_ebpf::{
    commit::{COMMITS as COMMITS_ENTRIES, CommitRecord},
    failure::{FAILURES as FAILURES_ENTRIES, Failure},
    loss::Loss,
    metadata::{JOURNALS as JOURNALS_ENTRIES, METADATA as METADATA_ENTRIES, MetadataTotals, MetadataUser},
    place::{PLACES, Place},
    request::{
        DEVICES as DEVICES_ENTRIES, Device, Heads, Queue, REQUESTS as REQUESTS_ENTRIES, RequestRecord,
    },
    signal::{SIGNALS as SIGNALS_ENTRIES, SignalRecord},
    stats::{ClassStats, SLOTS, STATS as STATS_ENTRIES},
    sync::SyncStart,
    target::Target,
};

/// Watched processes by thread group id. Written by user space.
#[map]
pub static TARGETS: HashMap<u32, Target> = HashMap::with_max_entries(SLOTS as u32, 0);

/// Counters. One array for all CPUs, added to atomically: a per-CPU value loses increments when a program is preempted
/// by another one on its CPU. Mapped by user space, so reading costs no syscall.
#[map]
pub static STATS: Array<ClassStats> = Array::with_max_entries(STATS_ENTRIES as u32, BPF_F_MMAPABLE);

/// What was missed. One value, mapped by user space.
#[map]
pub static LOSS: Array<Loss> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Records of syncs. The size is set by user space when it loads the object.
#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Syncs under way, by thread. Mapped by user space.
#[map]
pub static SYNC_PLACES: Array<Place<SyncStart>> = Array::with_max_entries(PLACES as u32, BPF_F_MMAPABLE);

/// Those that have no place there. As many as threads of all targets can sync at a time; a Go program under a slow disk has
/// at most a few hundred. Not LRU: an eviction would lose a sync without a trace.
#[map]
pub static SYNCS: HashMap<u32, SyncStart> = HashMap::with_max_entries(4096, 0);

/// The begin of a write call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CallStart {
    pub start_ns: u64,
    pub file: u64,
    pub slot: u32,
    pub generation: u32,
}

/// Write calls on regular files under way, by thread.
#[map]
pub static CALLS: HashMap<u32, CallStart> = HashMap::with_max_entries(4096, 0);

/// A file: the inode's address alone would come again with another file.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct FileKey {
    pub inode: u64,
    pub number: u64,
}

/// What is remembered of a file that is written to.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Written {
    /// Bytes since its last sync began.
    pub unsynced_bytes: u64,
    /// Its class and by which name: see [`crate::file::ClassOfName`].
    pub class: u64,
}

/// LRU: files that are never synced go by themselves.
#[map]
pub static WRITTEN: LruHashMap<FileKey, Written> = LruHashMap::with_max_entries(4096, 0);

/// Watched disks by number. Written by user space.
#[map]
pub static DEVICES: HashMap<u32, Device> = HashMap::with_max_entries(DEVICES_ENTRIES as u32, 0);

/// Request queues that were seen, by address. One that finds no room is looked at each time; nothing is missed.
#[map]
pub static QUEUES: HashMap<u64, Queue> = HashMap::with_max_entries(256, 0);

/// Requests under way on watched disks, by address. Mapped by user space.
#[map]
pub static REQUEST_PLACES: Array<Place<RequestRecord>> =
    Array::with_max_entries(PLACES as u32, BPF_F_MMAPABLE);

/// Those that have no place there, and bios that are not requests yet. More than any disk has tags for at a time in use; not
/// LRU: an eviction would lose a request without a trace.
#[map]
pub static IN_FLIGHT: HashMap<u64, RequestRecord> = HashMap::with_max_entries(4096, 0);

/// Requests that completed. Mapped by user space.
#[map]
pub static REQUESTS: Array<RequestRecord> = Array::with_max_entries(REQUESTS_ENTRIES as u32, BPF_F_MMAPABLE);

/// Commits under way by the journal's address: a journal has one thread that commits. Mapped by user space.
#[map]
pub static COMMIT_PLACES: Array<Place<CommitRecord>> = Array::with_max_entries(PLACES as u32, BPF_F_MMAPABLE);

/// Those that have no place there.
#[map]
pub static COMMITTING: HashMap<u64, CommitRecord> = HashMap::with_max_entries(DEVICES_ENTRIES as u32, 0);

/// Commits that ended. Mapped by user space.
#[map]
pub static COMMITS: Array<CommitRecord> = Array::with_max_entries(COMMITS_ENTRIES as u32, BPF_F_MMAPABLE);

/// Signals to watched processes. Mapped by user space.
#[map]
pub static SIGNALS: Array<SignalRecord> = Array::with_max_entries(SIGNALS_ENTRIES as u32, BPF_F_MMAPABLE);

/// How many records there were in all three. One value, mapped by user space.
#[map]
pub static HEADS: Array<Heads> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Requests that ended with an error, by disk and error.
#[map]
pub static FAILURES: HashMap<Failure, u64> = HashMap::with_max_entries(FAILURES_ENTRIES as u32, 0);

/// Filesystems whose journals are watched, by device number. Written by user space; the value means nothing.
#[map]
pub static JOURNALS: HashMap<u32, u32> = HashMap::with_max_entries(JOURNALS_ENTRIES as u32, 0);

/// Totals by who changed metadata. LRU: users come and go without end.
#[map]
pub static METADATA: LruHashMap<MetadataUser, MetadataTotals> =
    LruHashMap::with_max_entries(METADATA_ENTRIES as u32, 0);
