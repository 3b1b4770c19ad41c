//! Starts that failed, by member: the first of a cause is told, the others are counted until it serves.

use super::Home;
use super::verdict::Verdict;

/// Members whose failures are remembered; the oldest is forgotten.
const INCIDENTS_LIMIT: usize = 64;

/// A member that does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Why.
    pub verdict: Verdict,
    /// Failures of this cause in a row.
    pub failures: u32,
    /// The first, Unix nanoseconds.
    pub first_ns: i64,
    /// The last, Unix nanoseconds.
    pub last_ns: i64,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Incidents {
    known: Vec<(Home, Incident)>,
}

impl Incidents {
    /// Notes a failure. The flag is true when it is the first of its cause; also the member that was forgotten for it.
    pub fn failed(&mut self, home: &Home, verdict: Verdict, now_ns: i64) -> (&Incident, bool, Option<Home>) {
        let known = self.known.iter().position(|(of, _)| of == home);
        let before = known.map(|at| self.known.remove(at).1);
        let same = before.filter(|incident| incident.verdict.cause == verdict.cause);
        let first = same.is_none();
        let incident = match same {
            Some(known) => {
                Incident { verdict, failures: known.failures.saturating_add(1), last_ns: now_ns, ..known }
            }
            None => Incident { verdict, failures: 1, first_ns: now_ns, last_ns: now_ns },
        };
        let forgotten = (self.known.len() == INCIDENTS_LIMIT).then(|| self.known.remove(0).0);
        self.known.push((home.clone(), incident));
        let at = self.known.len() - 1;
        (&self.known[at].1, first, forgotten)
    }

    /// Forgets members that failed last before `then_ns` and of which none `runs`, and says which.
    pub fn forget_old(&mut self, then_ns: i64, runs: impl Fn(&Home) -> bool) -> Vec<Home> {
        let is_old = |(home, incident): &mut (Home, Incident)| incident.last_ns < then_ns && !runs(home);
        self.known.extract_if(.., is_old).map(|(home, _)| home).collect()
    }

    /// The open incident of a member.
    pub fn of(&self, home: &Home) -> Option<&Incident> {
        self.known.iter().find(|(of, _)| of == home).map(|(_, incident)| incident)
    }

    /// The member serves: its incident is over.
    pub fn recovered(&mut self, home: &Home) -> Option<Incident> {
        let at = self.known.iter().position(|(of, _)| of == home)?;
        Some(self.known.remove(at).1)
    }

    /// Any that is open.
    pub fn any(&self) -> Option<(&Home, &Incident)> {
        self.known.first().map(|(home, incident)| (home, incident))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(cause: &'static str) -> Verdict {
        Verdict { cause, detail: String::new(), evidence: String::new(), next_step: "" }
    }

    fn home(name: &str) -> Home {
        Home { data_dir: name.into(), pod_uid: String::new() }
    }

    #[test]
    fn the_first_of_a_cause_is_told_and_the_others_are_counted() {
        let mut incidents = Incidents::default();
        assert!(incidents.failed(&home("/a"), verdict("x"), 1).1);
        assert!(incidents.failed(&home("/b"), verdict("x"), 2).1, "another member");
        let (again, first, _) = incidents.failed(&home("/a"), verdict("x"), 3);
        assert_eq!((first, again.failures, again.first_ns, again.last_ns), (false, 2, 1, 3));
        assert!(incidents.failed(&home("/a"), verdict("y"), 4).1, "another cause");
        assert_eq!(incidents.recovered(&home("/a")).unwrap().verdict.cause, "y");
        assert_eq!(incidents.recovered(&home("/a")), None);
        assert!(incidents.any().is_some());
    }

    #[test]
    fn who_failed_long_ago_and_is_gone_is_forgotten() {
        let mut incidents = Incidents::default();
        for (name, at_ns) in [("/gone", 1), ("/waits", 1), ("/new", 9)] {
            incidents.failed(&home(name), verdict("x"), at_ns);
        }
        let runs = |of: &Home| *of == home("/waits");
        assert_eq!(incidents.forget_old(5, runs), [home("/gone")]);
        assert!(incidents.of(&home("/waits")).is_some() && incidents.of(&home("/new")).is_some());
    }

    #[test]
    fn memory_is_bounded_and_who_is_forgotten_is_told() {
        let mut incidents = Incidents::default();
        for number in 0..200 {
            let (_, _, forgotten) = incidents.failed(&home(&number.to_string()), verdict("x"), number);
            let expected = number.checked_sub(INCIDENTS_LIMIT as i64).filter(|before| *before >= 0);
            assert_eq!(forgotten, expected.map(|before| home(&before.to_string())));
        }
        assert_eq!(incidents.known.len(), INCIDENTS_LIMIT);
        assert!(incidents.of(&home("199")).is_some() && incidents.of(&home("0")).is_none());
    }
}
