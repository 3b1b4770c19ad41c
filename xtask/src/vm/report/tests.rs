use super::*;

const ANSWERS: &str = concat!(
    "{\"kernel\":\"6.1.0-37-amd64\"}\r\n",
    "{\"step\":\"loading the programs\"}\r\n",
    "{\"state\":\"counted\",\"kind\":\"program\",\"name\":\"block_issue\",\"function\":\"block_issue\",",
    "\"counted\":40,\"expected\":40,\"at_least\":false}\r\n",
    "{\"state\":\"off\",\"kind\":\"feature\",\"name\":\"block.file\",\"function\":null,\"reason\":\"no page\"}\r\n",
    "{\"end\":true}\r\n",
    "{\"state\":\"off\",\"kind\":\"fea",
);

fn item(name: &str, state: State) -> Item {
    Item { kind: "program".to_owned(), name: name.to_owned(), function: None, state }
}

fn counted(counted: u64, expected: u64, at_least: bool) -> State {
    State::Counted { counted, expected, at_least }
}

fn outcome(release: Release, items: Vec<Item>) -> Outcome {
    Outcome {
        package: "linux-image-x 1".to_owned(),
        suite: "sid".to_owned(),
        release,
        name: Some("x".to_owned()),
        items,
        notes: Vec::new(),
        failure: None,
        seconds: 1.0,
    }
}

#[test]
fn answers_are_read_and_what_was_cut_off_is_not() {
    let lines = parse(ANSWERS);
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0], Line::Kernel("6.1.0-37-amd64".to_owned()));
    let Line::Item(issue) = &lines[2] else { panic!("{lines:?}") };
    assert_eq!((issue.function.as_deref(), &issue.state), (Some("block_issue"), &counted(40, 40, false)));
    assert!(matches!(&lines[3], Line::Item(Item { state: State::Off(reason), .. }) if reason == "no page"));
    assert_eq!(last_step(&lines), "loading the programs");
    assert_eq!(last_step(&[]), "booting");
}

#[test]
fn a_program_that_counts_another_number_is_wrong() {
    let verdict = |state| item("block_issue", state).verdict([6, 1, 0]);
    assert_eq!(verdict(counted(40, 40, false)), Verdict::Fine);
    assert_eq!(verdict(counted(39, 40, false)), Verdict::Wrong);
    assert_eq!(verdict(counted(41, 40, false)), Verdict::Wrong);
    assert_eq!(verdict(counted(40, 40, true)), Verdict::Fine);
    assert_eq!(verdict(counted(41, 40, true)), Verdict::Fine);
    assert_eq!(verdict(counted(39, 40, true)), Verdict::Wrong);
    assert_eq!(verdict(counted(0, 0, true)), Verdict::Wrong);
    assert_eq!(verdict(State::Off("refused".to_owned())), Verdict::Wrong);
}

#[test]
fn what_an_older_kernel_does_not_have_is_excused_there_alone() {
    let start = item("block_start", State::Off("no tracepoint".to_owned()));
    assert_eq!(start.verdict([6, 4, 16]), Verdict::Excused);
    assert_eq!(start.verdict([6, 5, 0]), Verdict::Wrong);
}

#[test]
fn a_kernel_that_said_nothing_or_did_not_end_is_not_fine() {
    assert!(outcome([6, 1, 0], vec![item("a", counted(1, 1, false))]).is_fine());
    assert!(!outcome([6, 1, 0], Vec::new()).is_fine());
    assert!(!outcome([6, 1, 0], vec![item("a", counted(1, 2, false))]).is_fine());
    let mut cut = outcome([6, 1, 0], vec![item("a", counted(1, 1, false))]);
    cut.failure = Some("no end".to_owned());
    assert!(!cut.is_fine());
}

#[test]
fn the_table_has_a_row_for_each_program_and_a_column_for_each_kernel() {
    let outcomes = [
        outcome([5, 10, 223], vec![item("block_start", State::Off("no tracepoint".to_owned()))]),
        outcome(
            [6, 12, 0],
            vec![item("block_start", counted(40, 40, false)), item("new", counted(1, 2, false))],
        ),
    ];
    let expected = "\
| program       | 5.10.223 | 6.12.0     |
|---|---|---|
| `block_start` | off      | 40         |
| `new`         | —        | **1 of 2** |
";
    let table = table(&outcomes);
    assert!(table.starts_with(expected), "{table}");
    assert_eq!(
        reasons(&outcomes),
        ["5.10.223: block_start is off: no tracepoint", "6.12.0: new counted 1 of 2"]
    );
    let json = json(&outcomes);
    assert_eq!(json["kernels"][0]["items"][0]["verdict"], "not on this kernel");
    assert_eq!(json["kernels"][1]["items"][1]["verdict"], "wrong");
    assert_eq!(json["kernels"][1]["fine"], false);
}
