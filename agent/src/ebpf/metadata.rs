//! Who changes metadata of filesystems, through their jbd2 journals: an on-demand slot, off unless somebody asks.

use std::{collections::HashMap as StdHashMap, sync::Mutex};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use etcdmon_agent_ebpf::metadata::{JOURNALS, METADATA, MetadataTotals, MetadataUser};

use super::{ProbeError, evidence::of_words, lock, start::map_error};

type UserWords = [u64; size_of::<MetadataUser>() / 8];
type TotalsWords = [u64; size_of::<MetadataTotals>() / 8];

/// How much somebody changed metadata of a filesystem since the slot was opened: differences are usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetadataUsage {
    /// The filesystem's device, `(major << 20) | minor`: a partition, usually.
    pub filesystem: u32,
    /// The process.
    pub process_id: u32,
    /// Name of the thread that was first.
    pub comm: [u8; 16],
    /// Its cgroup in the default hierarchy; 0 = unknown.
    pub cgroup: u64,
    /// Operations, roughly.
    pub handles: u64,
    /// Blocks that they dirtied.
    pub dirtied_blocks: u64,
    /// Blocks of the journal that they asked for.
    pub requested_blocks: u64,
}

fn usage(user: UserWords, totals: TotalsWords) -> MetadataUsage {
    // SAFETY: numbers without padding, as the types assert.
    let (user, totals): (MetadataUser, MetadataTotals) = unsafe { (of_words(user), of_words(totals)) };
    MetadataUsage {
        filesystem: user.filesystem,
        process_id: user.process_id,
        comm: totals.comm,
        cgroup: user.cgroup,
        handles: totals.handles,
        dirtied_blocks: totals.dirtied_blocks,
        requested_blocks: totals.requested_blocks,
    }
}

struct Tables {
    journals: HashMap<MapData, u32, u32>,
    metadata: HashMap<MapData, UserWords, TotalsWords>,
}

/// The maps of the slot.
pub(super) struct Metadata {
    tables: Mutex<Tables>,
}

impl std::fmt::Debug for Metadata {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metadata").finish_non_exhaustive()
    }
}

impl Metadata {
    pub fn new(ebpf: &mut Ebpf) -> Result<Self, ProbeError> {
        let mut map =
            |name: &'static str| ebpf.take_map(name).ok_or_else(|| map_error(name, "not in the object"));
        macro_rules! hash {
            ($name:literal) => {
                HashMap::try_from(map($name)?).map_err(|source| map_error($name, source))?
            };
        }
        Ok(Self { tables: Mutex::new(Tables { journals: hash!("JOURNALS"), metadata: hash!("METADATA") }) })
    }

    /// Sets which filesystems are watched.
    pub fn watch(&self, filesystems: &[u32]) -> Result<(), ProbeError> {
        lock(&self.tables).watch(filesystems).map_err(|source| map_error("JOURNALS", source))
    }

    pub fn usage(&self) -> Vec<MetadataUsage> {
        let tables = lock(&self.tables);
        // The hash changes meanwhile: the kernel may begin anew, so that one comes twice.
        let all: StdHashMap<_, _> =
            tables.metadata.iter().take(2 * METADATA).filter_map(Result::ok).collect();
        all.into_iter().map(|(user, totals)| usage(user, totals)).collect()
    }
}

impl Tables {
    fn watch(&mut self, filesystems: &[u32]) -> Result<(), MapError> {
        let watched: Vec<u32> = self.journals.keys().take(2 * JOURNALS).filter_map(Result::ok).collect();
        for filesystem in watched.iter().filter(|filesystem| !filesystems.contains(filesystem)) {
            self.journals.remove(filesystem)?;
        }
        for filesystem in filesystems.iter().filter(|filesystem| !watched.contains(filesystem)).take(JOURNALS)
        {
            self.journals.insert(filesystem, 1_u32, 0)?;
        }
        if filesystems.is_empty() {
            let users: Vec<UserWords> =
                self.metadata.keys().take(2 * METADATA).filter_map(Result::ok).collect();
            for user in users {
                // It may have made room for another one meanwhile.
                let _ = self.metadata.remove(&user);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_read_field_by_field() {
        let found = usage(
            [u64::from(254_u32 << 20 | 1) | 42 << 32, 21],
            [1, 2, 3, u64::from_ne_bytes(*b"touch\0\0\0"), 0],
        );
        let expected = MetadataUsage {
            filesystem: 254 << 20 | 1,
            process_id: 42,
            comm: *b"touch\0\0\0\0\0\0\0\0\0\0\0",
            cgroup: 21,
            handles: 1,
            dirtied_blocks: 2,
            requested_blocks: 3,
        };
        assert_eq!(found, expected);
    }
}
