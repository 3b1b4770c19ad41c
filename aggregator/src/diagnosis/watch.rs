//! From the model of all clusters to incidents: one trail per member, judged with each new message. Pure, as the model is.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::incident::{Incidents, Mention, Place, Step};
use super::trail::{Sample, Trail};
use super::{Facts, Shown, judge};
use crate::clock::At;
use crate::cluster::{Member, Model, Report};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    trails: BTreeMap<Place, Trail>,
    incidents: Incidents,
}

impl Watch {
    /// With incidents of an earlier process.
    pub fn new(incidents: Incidents) -> Self {
        Self { trails: BTreeMap::new(), incidents }
    }

    /// Takes what the model learnt since the last call. `offset_ns` is how far the wall clock is ahead of steady time; `new_id` makes
    /// random ids.
    pub fn step(&mut self, at: At, offset_ns: i64, model: &Model, new_id: &mut dyn FnMut() -> Uuid) -> Step {
        let mut step = Step::default();
        self.trails.retain(|(cluster, member), _| {
            model.cluster(*cluster).is_some_and(|cluster| cluster.members.contains_key(member))
        });
        for (cluster_id, cluster) in model.clusters() {
            for (member_id, member) in &cluster.members {
                let place = (cluster_id, *member_id);
                let Some((agent, report)) = model.report(at, cluster_id, *member_id) else { continue };
                // Over the network nobody sees a process or its disk.
                if report.is_remote() {
                    continue;
                }
                let trail = self.trails.entry(place).or_default();
                if trail.last().is_some_and(|last| last.at >= report.at) {
                    continue;
                }
                let sample = sample(model, agent, report);
                trail.take(sample, |class, span| member.syncs(report.at, class, span));
                if let Some(facts) = Facts::of(&name(*member_id, member), trail) {
                    step.append(self.incidents.note(report.at, offset_ns, place, judge(&facts), new_id));
                }
            }
        }
        let trails = &self.trails;
        let heard = |place: Place| trails.get(&place)?.seconds().back().map(|second| second.at);
        step.append(self.incidents.tick(at, offset_ns, &heard));
        step
    }

    /// All that are kept, as the API shows them.
    pub fn shown(&mut self, offset_ns: i64) -> Shown {
        self.incidents.shown(offset_ns)
    }

    /// What an alert of a member says of its cause; closed ones only if they were closed at `since` or later.
    pub fn mention(&self, place: Place, since: At) -> Option<Mention> {
        self.incidents.mention(place, since)
    }
}

fn sample(model: &Model, agent: Uuid, report: &Report) -> Sample {
    let known = model.agent(agent);
    Sample {
        at: report.at,
        source: (agent, known.map_or_else(String::new, |agent| agent.epoch.clone())),
        process: report.member().and_then(|member| member.process.clone()),
        cgroup: report.member().map_or_else(String::new, |member| member.cgroup.clone()),
        running: report.live.running,
        slow: report.live.slow_syncs.clone(),
        vitals: report.live.vitals.clone(),
        failure: report.live.boot_failure.as_ref().map(|failure| failure.cause.clone()),
        clock_offset_ns: known.map_or(0, |agent| agent.clock_offset_ns),
    }
}

fn name(id: u64, member: &Member) -> String {
    if member.name.is_empty() { format!("{id:016x}") } else { member.name.clone() }
}
