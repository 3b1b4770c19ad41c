use super::*;

const AGENT: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

fn wanted() -> NewToken {
    NewToken { life: Duration::from_secs(100), uses: 1, scope: "lab".to_owned(), agent: None }
}

/// A book, and what a desk does with it.
#[derive(Default)]
struct Fixture {
    book: Book,
    serials: u32,
}

impl Fixture {
    fn token(&mut self, now: i64, wanted: NewToken) -> JoinToken {
        let token = JoinToken::random("");
        let record = self.book.make_token(at(now), &token, wanted).unwrap();
        self.book.apply(record);
        token
    }

    fn enrol(&mut self, now: i64, token: &JoinToken, agent: Uuid, key: &str) -> Result<Issued, Refusal> {
        let admission = self.book.admit(at(now), token, agent, key)?;
        let issued = self.settle(now, admission, agent, key);
        Ok(issued)
    }

    fn renew(&mut self, now: i64, current: &Issued, key: &str) -> Result<Issued, Refusal> {
        let admission = self.book.renew(at(now), current.agent, &current.serial, key)?;
        Ok(self.settle(now, admission, current.agent, key))
    }

    fn settle(&mut self, now: i64, admission: Admission, agent: Uuid, key: &str) -> Issued {
        match admission {
            Admission::Again(issued) => issued,
            Admission::Fresh { superseded, scope, token } => {
                self.serials += 1;
                let issued = Issued {
                    serial: self.serials.to_string(),
                    agent,
                    key: key.to_owned(),
                    scope,
                    token: token.clone(),
                    node: String::new(),
                    issued_at: at(now),
                    not_before: at(now),
                    not_after: at(now + 1_000),
                    der: String::new(),
                    revoked_at: None,
                    revoked_because: String::new(),
                };
                superseded.into_iter().for_each(|old| self.book.apply(Record::Certificate(old)));
                self.book.apply(Record::Certificate(issued.clone()));
                let used = self.book.used(at(now), &token, &issued).unwrap();
                self.book.apply(used);
                issued
            }
        }
    }
}

#[test]
fn a_token_admits_one_agent_and_a_second_is_refused() {
    let mut fixture = Fixture::default();
    let token = fixture.token(0, wanted());
    let issued = fixture.enrol(10, &token, AGENT, "key").unwrap();
    assert_eq!((issued.scope.as_str(), issued.token.as_str()), ("lab", token.id.as_str()));
    let refusal = fixture.enrol(20, &token, OTHER, "key2").unwrap_err();
    assert_eq!(refusal, Refusal::UsedUp { by: AGENT, last: at(10) });
    let thief_with_the_agents_id = fixture.enrol(20, &token, AGENT, "key2").unwrap_err();
    assert_eq!(thief_with_the_agents_id, Refusal::UsedUp { by: AGENT, last: at(10) });
    let record = fixture.book.reused(&token.id).unwrap();
    fixture.book.apply(record);
    let view = fixture.book.token(&token.id, at(20)).unwrap();
    assert_eq!((view.state.as_str(), view.refused_uses, view.used_by), ("used_up", 1, vec![AGENT]));
}

#[test]
fn a_lost_answer_is_given_again_to_the_same_key_and_is_no_second_use() {
    let mut fixture = Fixture::default();
    let token = fixture.token(0, wanted());
    let first = fixture.enrol(10, &token, AGENT, "key").unwrap();
    assert_eq!(fixture.enrol(500, &token, AGENT, "key").unwrap(), first, "even after the token's end");
    assert_eq!(fixture.book.certificates(at(500)).len(), 1);
    assert!(fixture.enrol(2_000, &token, AGENT, "key").is_err(), "but not after the certificate's");
}

#[test]
fn wrong_old_revoked_and_foreign_tokens_are_refused_each_with_its_reason() {
    let mut fixture = Fixture::default();
    let token = fixture.token(0, wanted());
    let mut guessed = JoinToken::random("");
    guessed.id.clone_from(&token.id);
    for unknown in [&guessed, &JoinToken::random("")] {
        assert_eq!(fixture.enrol(1, unknown, AGENT, "key"), Err(Refusal::Unknown));
    }
    assert_eq!(fixture.enrol(100, &token, AGENT, "key"), Err(Refusal::Expired(at(100))));
    let revoked = fixture.book.revoke_token(at(5), &token.id).unwrap();
    fixture.book.apply(revoked);
    assert_eq!(fixture.enrol(6, &token, AGENT, "key"), Err(Refusal::Revoked(at(5))));
    assert!(fixture.book.revoke_token(at(5), "nothing").is_none());
    let bound = fixture.token(0, NewToken { agent: Some(OTHER), ..wanted() });
    assert_eq!(fixture.enrol(6, &bound, AGENT, "key"), Err(Refusal::OtherAgent));
}

#[test]
fn nobody_becomes_an_agent_that_has_a_certificate_unless_the_token_is_for_it() {
    let mut fixture = Fixture::default();
    let many = fixture.token(0, NewToken { uses: 10, ..wanted() });
    let first = fixture.enrol(1, &many, AGENT, "key").unwrap();
    let refusal = fixture.enrol(2, &many, AGENT, "thief").unwrap_err();
    assert_eq!(refusal, Refusal::HasCertificate { agent: AGENT, until: at(1_001) });
    let bound = fixture.token(2, NewToken { agent: Some(AGENT), ..wanted() });
    let second = fixture.enrol(3, &bound, AGENT, "new").unwrap();
    assert_ne!(first.serial, second.serial);
    let (standing, _) = fixture.book.standing();
    assert_eq!(standing[&first.serial].revoked.as_deref(), Some("superseded by a new enrolment"));
    assert_eq!(standing[&second.serial].revoked, None);
}

#[test]
fn a_revoked_agent_needs_a_token_that_was_made_later() {
    let mut fixture = Fixture::default();
    let many = fixture.token(0, NewToken { uses: 10, ..wanted() });
    let issued = fixture.enrol(1, &many, AGENT, "key").unwrap();
    fixture.book.revoke_agent(at(5), AGENT).into_iter().for_each(|record| fixture.book.apply(record));
    assert_eq!(fixture.book.certificates(at(6))[0].state, "revoked");
    assert_eq!(fixture.renew(6, &issued, "key2"), Err(Refusal::NotOurs));
    let refusal = fixture.enrol(6, &many, AGENT, "key3").unwrap_err();
    assert_eq!(refusal, Refusal::AgentRevoked { agent: AGENT, at: at(5) });
    let later = fixture.token(7, wanted());
    assert!(fixture.enrol(8, &later, AGENT, "key3").is_ok());
    assert!(fixture.enrol(6, &many, OTHER, "other").is_ok(), "others are not touched");
}

#[test]
fn a_certificate_is_renewed_for_its_bearer_and_only_so_often() {
    let mut fixture = Fixture::default();
    let token = fixture.token(0, wanted());
    let first = fixture.enrol(0, &token, AGENT, "key").unwrap();
    let second = fixture.renew(600, &first, "key2").unwrap();
    assert_eq!(fixture.renew(601, &first, "key2").unwrap(), second, "the answer was lost");
    assert_eq!((second.scope.as_str(), second.not_after), ("lab", at(1_600)));
    assert_eq!(fixture.book.certificates(at(602)).iter().filter(|c| c.state == "valid").count(), 2);
    assert_eq!(fixture.renew(1_700, &second, "key3"), Err(Refusal::NotOurs), "an expired one is none");
    let mut granted = 0;
    while fixture.renew(700, &second, &format!("spam{granted}")).is_ok() {
        granted += 1;
    }
    assert_eq!(granted + 2, MOST_CERTIFICATES);
}

#[test]
fn what_is_long_over_leaves_the_book() {
    let mut fixture = Fixture::default();
    let token = fixture.token(0, wanted());
    fixture.enrol(1, &token, AGENT, "key").unwrap();
    assert_eq!(fixture.book.outdated(at(1_001 + 3_600)), []);
    for record in fixture.book.outdated(at(40 * 24 * 3_600)) {
        fixture.book.apply(record);
    }
    assert!(fixture.book.tokens(at(0)).is_empty() && fixture.book.certificates(at(0)).is_empty());
}
