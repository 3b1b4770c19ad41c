use super::*;

fn class(directory: &str, name: &str) -> Class {
    let verdict = class_of(Name::new(name.as_bytes()));
    if verdict.only_in_snap && !Name::new(directory.as_bytes()).is_snap() {
        Class::Other
    } else {
        verdict.class
    }
}

#[test]
fn every_file_that_etcd_writes_has_its_class() {
    let known = [
        ("wal", "0000000000000000-0000000000000000.wal", Class::Wal),
        ("wal.tmp", "0000000000000000-0000000000000000.wal", Class::Wal),
        ("etcd-wal", "0000000000000001-00000000000186a1.wal", Class::Wal),
        ("wal", "0.tmp", Class::Wal),
        ("wal", "1.tmp", Class::Wal),
        ("snap", "db", Class::Backend),
        ("snap", "0000000000000002-00000000000186a1.snap", Class::Snapshot),
        ("snap", "00000000000186a1.snap.db", Class::Snapshot),
        ("snap", "tmp123456789", Class::Snapshot),
        ("snap", "tmp1", Class::Snapshot),
        ("snap", "db.tmp.1234567", Class::Defrag),
    ];
    for (directory, name, expected) in known {
        assert_eq!(class(directory, name), expected, "{directory}/{name}");
    }
}

#[test]
fn names_that_only_look_alike_are_other() {
    for (directory, name) in [
        ("data", "db"),
        ("snapshots", "db"),
        ("snap", "db2"),
        ("snap", "d"),
        ("snap", ""),
        ("data", "tmp1234"),
        ("wal", "00.tmp"),
        ("wal", "x.tmp"),
        ("wal", "0.tmpx"),
        ("wal", "0000000000000000-0000000000000000.wal.broken"),
        ("wal", "wal"),
        ("snap", "db.tmp"),
        ("snap", "0000000000000002-00000000000186a1.snap.broken"),
        ("snap", "snap"),
        ("member", "lock"),
    ] {
        assert_eq!(class(directory, name), Class::Other, "{directory}/{name}");
    }
}

#[test]
fn a_name_cut_out_of_a_longer_buffer_has_the_same_class() {
    // The kernel's buffer goes on behind the name; what stands there must not matter.
    for name in ["db", "0.tmp", "a.wal", "b.snap", "tmp1234"] {
        let clean = Name::new(name.as_bytes());
        let garbage = if name.len() < 8 { u64::MAX << (8 * name.len()) } else { 0 };
        let head = clean.head | garbage;
        let tail = if name.len() < 8 { Name::tail_of_short(clean.len, head) } else { clean.tail };
        assert_eq!(class_of(Name { len: clean.len, head, tail }), class_of(clean), "{name}");
    }
}

#[test]
fn indices_and_classes_agree() {
    for (index, class) in (0..).zip(Class::ALL) {
        assert_eq!(class as u32, index);
        assert_eq!(Class::from_index(index), Some(class));
    }
    assert_eq!(Class::from_index(CLASSES as u32), None);
}
