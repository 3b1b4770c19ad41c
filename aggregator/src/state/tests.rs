use std::path::Path;

use serde_json::json;

use super::*;

fn put(id: &str, expected: Expected, json: Value) -> Change {
    Change::Put { kind: kind::ALERT, id: id.to_owned(), expected, json }
}

fn enqueue(group: &str) -> Change {
    Change::Enqueue {
        delivery: format!("d-{group}"),
        receiver: "webhook".to_owned(),
        group: group.to_owned(),
        created_at_ns: 5,
        json: json!({"group": group}),
    }
}

/// Opening waits for the writer thread of the handle dropped just before, which still has to close its file.
async fn reopen(directory: &Path) -> State {
    for _ in 0..500 {
        match State::open(directory) {
            Err(StateError::InUse { .. }) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            other => return other.expect("the state opens"),
        }
    }
    panic!("the state stays in use");
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    let numbers = state
        .commit(vec![
            put("a", Expected::Absent, json!({"n": 1})),
            enqueue("g1"),
            enqueue("g2"),
            Change::Append { log: log::ALERT, at_ns: 9, json: json!("fired") },
        ])
        .await
        .unwrap();
    assert_eq!(numbers.len(), 2);
    drop(state);
    let state = reopen(directory.path()).await;
    let alerts = state.list(kind::ALERT).await.unwrap();
    assert_eq!((alerts[0].id.as_str(), alerts[0].version, &alerts[0].json), ("a", 1, &json!({"n": 1})));
    let outbox = state.outbox().await.unwrap();
    assert_eq!(outbox.iter().map(|item| item.number).collect::<Vec<_>>(), numbers);
    assert_eq!((outbox[1].group.as_str(), outbox[1].delivery.as_str()), ("g2", "d-g2"));
    assert_eq!(state.log(log::ALERT, 10).await.unwrap()[0].json, json!("fired"));
    assert!(state.log(log::LEADER, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn compare_and_swap_refuses_what_somebody_else_changed() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    state.commit(vec![put("a", Expected::Absent, json!(1))]).await.unwrap();
    state.commit(vec![put("a", Expected::Version(1), json!(2))]).await.unwrap();
    for expected in [Expected::Absent, Expected::Version(1), Expected::Version(3)] {
        let error = state.commit(vec![put("a", expected, json!(9))]).await.expect_err("a conflict");
        assert!(matches!(error, StateError::Conflict { .. }), "{error}");
    }
    state.commit(vec![put("a", Expected::Anything, json!(3))]).await.unwrap();
    let found = state.list(kind::ALERT).await.unwrap();
    assert_eq!((found[0].version, &found[0].json), (3, &json!(3)));
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    let changes =
        vec![enqueue("g"), put("new", Expected::Absent, json!(1)), put("x", Expected::Version(7), json!(1))];
    state.commit(changes).await.expect_err("the last change does not fit");
    assert!(state.outbox().await.unwrap().is_empty());
    assert!(state.list(kind::ALERT).await.unwrap().is_empty());
}

#[tokio::test]
async fn dequeue_and_delete_are_idempotent() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    let numbers = state.commit(vec![enqueue("g"), put("a", Expected::Absent, json!(1))]).await.unwrap();
    for _ in 0..2 {
        let delete = Change::Delete { kind: kind::ALERT, id: "a".to_owned() };
        state.commit(vec![Change::Dequeue { number: numbers[0] }, delete]).await.unwrap();
    }
    assert!(state.outbox().await.unwrap().is_empty());
    let again = state.commit(vec![enqueue("h")]).await.unwrap();
    assert!(again[0] > numbers[0], "numbers are never used again");
}

#[tokio::test]
async fn a_second_process_is_kept_out_and_told_who_is_in() {
    let directory = tempfile::tempdir().unwrap();
    let _state = State::open(directory.path()).unwrap();
    let error = State::open(directory.path()).expect_err("in use").to_string();
    assert!(error.contains("in use by another aggregator (pid "), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_a_clear_error() {
    for content in [&b"this is no database, and it is long enough to be looked at"[..], &[0xff; 8192]] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("state.sqlite"), content).unwrap();
        let error = State::open(directory.path()).expect_err("damaged");
        assert!(matches!(error, StateError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("restore it from a backup"), "{error}");
    }
}

#[tokio::test]
async fn damage_inside_the_file_is_found_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).unwrap();
    for n in 0..200 {
        state.commit(vec![put(&n.to_string(), Expected::Absent, json!("x".repeat(500)))]).await.unwrap();
    }
    drop(state);
    drop(reopen(directory.path()).await);
    let path = directory.path().join("state.sqlite");
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[8_192..end].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let mut error = State::open(directory.path()).expect_err("damaged");
    for _ in 0..100 {
        let StateError::InUse { .. } = error else { break };
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        error = State::open(directory.path()).expect_err("damaged");
    }
    assert!(matches!(error, StateError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.sqlite");
    rusqlite::Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
    let error = State::open(directory.path()).expect_err("too new").to_string();
    assert!(error.contains("format 99") && error.contains("upgrade"), "{error}");
}

#[tokio::test]
async fn a_directory_that_can_not_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = State::open(&file.path().join("state")).expect_err("a file is in the way");
    assert!(matches!(error, StateError::Directory { .. }), "{error:?}");
}

#[tokio::test]
async fn a_locked_database_is_said_to_be_in_use() {
    let directory = tempfile::tempdir().unwrap();
    drop(State::open(directory.path()).unwrap());
    drop(reopen(directory.path()).await);
    let other = rusqlite::Connection::open(directory.path().join("state.sqlite")).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; CREATE TABLE t (x);").ok();
    let state = State::open(directory.path());
    let refused = match state {
        Err(error) => error,
        Ok(state) => state.commit(vec![enqueue("g")]).await.expect_err("locked"),
    };
    assert!(matches!(refused, StateError::InUse { .. }), "{refused:?}");
}

/// Not a test by itself: the process that the next test kills. It commits pairs of an entity and a notice and says so.
#[tokio::test]
async fn crash_writer() {
    use std::io::Write as _;
    let Ok(directory) = std::env::var("ETCDMON_TEST_CRASH_WRITER") else { return };
    let state = State::open(Path::new(&directory)).unwrap();
    for n in 0u64.. {
        let group = n.to_string();
        state.commit(vec![put(&group, Expected::Absent, json!(n)), enqueue(&group)]).await.unwrap();
        writeln!(std::io::stdout().lock(), "committed {n}").unwrap();
    }
}

#[tokio::test]
async fn a_committed_change_survives_kill_9_and_no_transaction_is_halved() {
    use std::io::BufRead as _;
    for lines in [1, 7, 40, 150] {
        let directory = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "state::tests::crash_writer", "--nocapture"])
            .env("ETCDMON_TEST_CRASH_WRITER", directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let told = output.lines().map_while(Result::ok).filter_map(|line| {
            line.split_once("committed ").and_then(|(_, number)| number.parse::<u64>().ok())
        });
        let last = told.take(lines).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let state = reopen(directory.path()).await;
        let entities = state.list(kind::ALERT).await.unwrap();
        let outbox = state.outbox().await.unwrap();
        assert_eq!(entities.len(), outbox.len(), "entity and notice come together");
        assert!(entities.len() as u64 > last, "{} entities, {last} was told committed", entities.len());
    }
}
