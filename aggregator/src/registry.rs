//! Clusters known: which of our UUIDs stands for which etcd cluster id, and their names.
//!
//! The mapping is made once and kept for all time in the state: telemetry is filed under the UUID. A new UUID follows from
//! a random id of this installation and the etcd cluster id, so a crash before it is written changes nothing: the next
//! process finds the same one. So neither ingest nor alerts wait for the state. Ids come from agents, who may make them up:
//! past [`MAX_KNOWN`] a new one is mapped and not remembered.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::rule::Names;
use crate::state::{Change, Expected, State, StateError, kind};
use crate::store::ClusterNames;

/// Most clusters that are remembered. Others are filed under the UUID that follows from their id all the same.
const MAX_KNOWN: usize = 10_000;

/// A cluster of the registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Our id.
    pub cluster: Uuid,
    /// Its name, for people.
    pub name: String,
}

#[derive(Debug, Default)]
struct Known {
    installation: Uuid,
    by_etcd_id: BTreeMap<u64, Entry>,
    by_cluster: BTreeMap<Uuid, u64>,
    unsaved: Vec<u64>,
}

/// The registry. Cheap to clone; every clone is the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    known: Arc<Mutex<Known>>,
}

impl Registry {
    /// Reads what the state knows.
    ///
    /// # Errors
    /// When the state can't be read, or not be written at the first start.
    pub async fn load(state: &State) -> Result<Self, StateError> {
        let registry = Self::default();
        registry.lock().installation = installation(state).await?;
        for entity in state.list(kind::CLUSTER).await? {
            let id = u64::from_str_radix(&entity.id, 16);
            match (id, Entry::deserialize(&entity.json)) {
                (Ok(id), Ok(entry)) => registry.lock().insert(id, entry),
                _ => tracing::warn!(id = entity.id, "cluster in the state does not parse, skipped"),
            }
        }
        Ok(registry)
    }

    /// The cluster that an etcd cluster id stands for; a new one when it was never met.
    pub fn cluster_of(&self, etcd_cluster_id: u64) -> Uuid {
        let mut known = self.lock();
        if let Some(entry) = known.by_etcd_id.get(&etcd_cluster_id) {
            return entry.cluster;
        }
        let cluster = derive(known.installation, etcd_cluster_id);
        if known.by_etcd_id.len() >= MAX_KNOWN {
            return cluster;
        }
        let name = default_name(etcd_cluster_id);
        known.insert(etcd_cluster_id, Entry { cluster, name });
        known.unsaved.push(etcd_cluster_id);
        cluster
    }

    /// This installation's random id.
    pub fn installation(&self) -> Uuid {
        self.lock().installation
    }

    /// Names a cluster that nobody has named yet.
    pub fn suggest_name(&self, etcd_cluster_id: u64, name: &str) {
        // Makes it known first.
        let _cluster = self.cluster_of(etcd_cluster_id);
        let mut known = self.lock();
        let taken = known.by_etcd_id.values().any(|entry| entry.name == name);
        let Some(entry) = known.by_etcd_id.get_mut(&etcd_cluster_id) else { return };
        if !taken && entry.name == default_name(etcd_cluster_id) {
            name.clone_into(&mut entry.name);
            known.unsaved.push(etcd_cluster_id);
        }
    }

    /// The name of a cluster; its id when it has none.
    pub fn name(&self, cluster: Uuid) -> String {
        let known = self.lock();
        let entry = known.by_cluster.get(&cluster).and_then(|id| known.by_etcd_id.get(id));
        entry.map_or_else(|| cluster.to_string(), |entry| entry.name.clone())
    }

    /// Every cluster with its etcd cluster id.
    pub fn entries(&self) -> Vec<(u64, Entry)> {
        self.lock().by_etcd_id.iter().map(|(id, entry)| (*id, entry.clone())).collect()
    }

    /// What is new since the last call, to be written to the state.
    pub fn take_unsaved(&self) -> Vec<Change> {
        let mut known = self.lock();
        let ids = std::mem::take(&mut known.unsaved);
        ids.into_iter().filter_map(|id| known.change(id)).collect()
    }

    /// Held for a look-up only, never across a wait.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn default_name(etcd_cluster_id: u64) -> String {
    format!("etcd-{:08x}", etcd_cluster_id >> 32)
}

/// Our lasting id for an etcd cluster id.
fn derive(installation: Uuid, etcd_cluster_id: u64) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(installation.as_bytes());
    hash.update(etcd_cluster_id.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The random id of this installation, made at its first start.
async fn installation(state: &State) -> Result<Uuid, StateError> {
    let known = state.list(kind::INSTALLATION).await?;
    if let Some(id) = known.first().and_then(|entity| entity.json["id"].as_str()?.parse().ok()) {
        return Ok(id);
    }
    let id = Uuid::new_v4();
    let json = json!({"id": id});
    let put =
        Change::Put { kind: kind::INSTALLATION, id: "this".to_owned(), expected: Expected::Absent, json };
    state.commit(vec![put]).await?;
    Ok(id)
}

impl ClusterNames for Registry {
    fn cluster_uuid(&self, etcd_cluster_id: u64) -> Uuid {
        self.cluster_of(etcd_cluster_id)
    }
}

impl Names for Registry {
    fn cluster_name(&self, cluster: Uuid) -> String {
        self.name(cluster)
    }
}

impl Known {
    fn insert(&mut self, etcd_cluster_id: u64, entry: Entry) {
        self.by_cluster.insert(entry.cluster, etcd_cluster_id);
        self.by_etcd_id.insert(etcd_cluster_id, entry);
    }

    fn change(&self, id: u64) -> Option<Change> {
        let json = serde_json::to_value(self.by_etcd_id.get(&id)?).ok()?;
        Some(Change::Put {
            kind: kind::CLUSTER,
            id: format!("{id:016x}"),
            expected: Expected::Anything,
            json,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_keeps_its_id_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let registry = Registry::load(&state).await.unwrap();
        let cluster = registry.cluster_of(0xdead_beef_0000_0001);
        assert_eq!(registry.cluster_of(0xdead_beef_0000_0001), cluster);
        assert_ne!(registry.cluster_of(2), cluster);
        assert_eq!(registry.name(cluster), "etcd-deadbeef");
        state.commit(registry.take_unsaved()).await.unwrap();
        assert!(registry.take_unsaved().is_empty());
        let again = Registry::load(&state).await.unwrap();
        assert_eq!(again.entries(), registry.entries());
        assert_eq!(again.cluster_of(0xdead_beef_0000_0001), cluster);
    }

    #[tokio::test]
    async fn a_crash_before_the_registry_is_saved_changes_no_id() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        let lost = Registry::load(&state).await.unwrap().cluster_of(7);
        assert_eq!(Registry::load(&state).await.unwrap().cluster_of(7), lost);
        let other = tempfile::tempdir().unwrap();
        let foreign = Registry::load(&State::open(other.path()).unwrap()).await.unwrap().cluster_of(7);
        assert_ne!(foreign, lost, "another installation, another id");
    }

    #[test]
    fn a_name_is_taken_once_and_only_in_place_of_a_made_up_one() {
        let registry = Registry::default();
        registry.suggest_name(7, "blue");
        registry.suggest_name(7, "green");
        registry.suggest_name(8, "blue");
        assert_eq!(registry.name(registry.cluster_of(7)), "blue");
        assert_eq!(registry.name(registry.cluster_of(8)), default_name(8));
        assert_eq!(registry.take_unsaved().len(), 3, "7 as it was found, and named; 8");
    }

    #[test]
    fn ids_without_end_are_mapped_and_not_all_remembered() {
        let registry = Registry::default();
        let ids = 1..=MAX_KNOWN as u64 + 100;
        let clusters: Vec<Uuid> = ids.clone().map(|id| registry.cluster_of(id)).collect();
        assert_eq!((registry.entries().len(), registry.take_unsaved().len()), (MAX_KNOWN, MAX_KNOWN));
        assert!(
            ids.zip(clusters).all(|(id, cluster)| registry.cluster_of(id) == cluster),
            "the same every time"
        );
        registry.suggest_name(MAX_KNOWN as u64 + 1, "blue");
        assert_eq!(registry.entries().len(), MAX_KNOWN);
    }

    #[test]
    fn a_cluster_nobody_knows_is_called_by_its_id() {
        assert_eq!(Registry::default().name(Uuid::nil()), Uuid::nil().to_string());
    }
}
