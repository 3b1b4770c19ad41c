//! What is off at the moment, against what the hub was told by the same source: the difference goes to the hub, so that what
//! works again is taken back. Pure.

use std::collections::BTreeMap;

use etcdmon_proto::v1::Degradation;

use super::Note;

/// Reasons that are told of one capability; of more only the number is.
const REASONS: usize = 3;

/// What the hub was told, by capability.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<String, Degradation>);

impl Told {
    /// What the hub has to be told so that it knows that just this is off. Several reasons for one capability become one, with
    /// the remedy of the first.
    pub fn update(&mut self, off: impl IntoIterator<Item = Degradation>) -> Vec<Note> {
        let mut reasons: BTreeMap<String, (Vec<String>, String)> = BTreeMap::new();
        for Degradation { capability, reason, remedy } in off {
            let (all, _) = reasons.entry(capability).or_insert_with(|| (Vec::new(), remedy));
            if !all.contains(&reason) {
                all.push(reason);
            }
        }
        let mut now = BTreeMap::new();
        for (capability, (reasons, remedy)) in reasons {
            let degraded = Degradation { capability: capability.clone(), reason: in_words(&reasons), remedy };
            now.insert(capability, degraded);
        }
        let before = std::mem::replace(&mut self.0, now);
        let over = before.keys().filter(|capability| !self.0.contains_key(*capability));
        let mut notes: Vec<Note> = over.map(|capability| Note::Restored(capability.clone().into())).collect();
        let new = self.0.iter().filter(|(capability, degraded)| before.get(*capability) != Some(degraded));
        notes.extend(new.map(|(_, degraded)| Note::Degraded(degraded.clone())));
        notes
    }
}

fn in_words(reasons: &[String]) -> String {
    let told = reasons.iter().take(REASONS).cloned().collect::<Vec<_>>().join("; ");
    match reasons.len().saturating_sub(REASONS) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(capability: &str, reason: &str) -> Degradation {
        Degradation { capability: capability.to_owned(), reason: reason.to_owned(), remedy: "r".to_owned() }
    }

    /// `+capability reason` and `-capability`.
    fn told(told: &mut Told, off: &[Degradation]) -> Vec<String> {
        let word = |note| match note {
            Note::Degraded(degraded) => format!("+{} {}", degraded.capability, degraded.reason),
            Note::Restored(capability) => format!("-{capability}"),
            other => panic!("{other:?}"),
        };
        told.update(off.iter().cloned()).into_iter().map(word).collect()
    }

    #[test]
    fn what_is_off_is_told_once_and_taken_back_when_its_cause_is_gone() {
        let mut known = Told::default();
        assert_eq!(told(&mut known, &[]), [""; 0]);
        let both = [off("sync.hook", "pid 1: no slot"), off("write.calls", "refused")];
        assert_eq!(told(&mut known, &both), ["+sync.hook pid 1: no slot", "+write.calls refused"]);
        assert_eq!(told(&mut known, &both), [""; 0], "once");
        assert_eq!(told(&mut known, &both[1..]), ["-sync.hook"]);
        assert_eq!(told(&mut known, &[off("write.calls", "otherwise")]), ["+write.calls otherwise"]);
        assert_eq!(told(&mut known, &[]), ["-write.calls"]);
        assert_eq!(told(&mut known, &both[..1]), ["+sync.hook pid 1: no slot"], "and again");
    }

    #[test]
    fn a_capability_with_several_reasons_has_them_all_until_the_last_is_gone() {
        let mut known = Told::default();
        let of = |pid: u32| off("sync.hook", &format!("pid {pid}"));
        assert_eq!(told(&mut known, &[of(1), of(2), of(2)]), ["+sync.hook pid 1; pid 2"]);
        assert_eq!(told(&mut known, &[of(2)]), ["+sync.hook pid 2"]);
        let five: Vec<Degradation> = (1..=5).map(of).collect();
        assert_eq!(told(&mut known, &five), ["+sync.hook pid 1; pid 2; pid 3; and 2 more"]);
        assert_eq!(told(&mut known, &[]), ["-sync.hook"]);
    }
}
