use super::*;

#[test]
fn every_field_belongs_to_a_feature_and_sits_at_its_index() {
    for (index, field) in Field::ALL.into_iter().enumerate() {
        assert_eq!(field as usize, index);
        let needed = |field| Feature::ALL.iter().any(|feature| feature.needs().contains(&field));
        let of_older_kernels =
            Field::ALL.iter().any(|newer| instead(*newer) == Some(field) && needed(*newer));
        assert!(needed(field) || of_older_kernels, "{field:?}");
        assert!(!paths(field).is_empty());
    }
}

#[test]
fn the_childs_answer_survives_the_pipe() {
    let begin_with_queue = BTreeSet::from(["block_getrq".to_owned()]);
    let mut offsets = Offsets { values: std::array::from_fn(|index| index as u32 * 8), begin_with_queue };
    offsets.values[Field::TaskRunDelay as usize] = MISSING;
    assert_eq!(Offsets::from_json(&offsets.to_json()).expect("own answer"), offsets);
}

#[test]
fn a_missing_field_switches_off_its_feature_by_name() {
    let offsets = Offsets::from_json(r#"{"offsets":{"task_struct.files":8}}"#).expect("valid");
    assert_eq!(offsets.lacks(Feature::RunDelay), ["task_struct.sched_info.run_delay"]);
    assert_eq!(offsets.lacks(Feature::Descriptor), ["files_struct.fdt", "fdtable.max_fds", "fdtable.fd"]);
}

#[test]
fn the_field_of_an_older_kernel_will_do() {
    let lacks = |text: &str| Offsets::from_json(text).expect("valid").lacks(Feature::Requests);
    assert!(lacks(r#"{"offsets":{}}"#).contains(&"request_queue.disk"));
    assert!(!lacks(r#"{"offsets":{"request.rq_disk":8}}"#).contains(&"request_queue.disk"));
    assert!(!lacks(r#"{"offsets":{"request_queue.disk":8}}"#).contains(&"request_queue.disk"));
}

#[test]
fn each_event_tells_by_itself_whether_it_begins_with_the_queue() {
    let text = r#"{"offsets":{},"begin_with_queue":["block_getrq"]}"#;
    let offsets = Offsets::from_json(text).expect("valid");
    let with: Vec<_> =
        Program::ALL.into_iter().filter(|program| offsets.begins_with_queue(*program)).collect();
    assert_eq!(with, [Program::BlockSubmit]);
    for program in Program::ALL {
        let has_event = MAY_BEGIN_WITH_QUEUE.iter().any(|(of, _)| *of == program);
        assert_eq!(program.after_queue().is_some(), has_event, "{program:?}");
    }
}

#[test]
fn nonsense_is_an_error() {
    assert!(Offsets::from_json("").is_err());
    assert!(Offsets::from_json("{}").is_err());
    assert!(Offsets::from_json(r#"{"offsets":{"task_struct.files":-1}}"#).is_err());
}

#[test]
fn a_kernel_without_btf_is_named() {
    let error = Offsets::from_file(Path::new("/nonexistent/vmlinux")).expect_err("no such file");
    assert_eq!(error.to_string(), "read /nonexistent/vmlinux");
}

#[test]
fn a_child_that_fails_or_is_not_there_is_an_error() {
    let path = Path::new(KERNEL_BTF);
    assert!(matches!(Offsets::from_child(Path::new("/nonexistent"), path), Err(OffsetError::Child { .. })));
    assert!(matches!(
        Offsets::from_child(Path::new("/bin/false"), path),
        Err(OffsetError::ChildFailed { .. })
    ));
    assert!(matches!(Offsets::from_child(Path::new("/bin/echo"), path), Err(OffsetError::Answer(_))));
}

#[test]
fn the_running_kernel_has_all_fields() {
    if !Path::new(KERNEL_BTF).exists() {
        eprintln!("skipped: this kernel has no {KERNEL_BTF}");
        return;
    }
    let offsets = Offsets::from_file(Path::new(KERNEL_BTF)).expect("the kernel's own");
    for feature in Feature::ALL {
        assert_eq!(offsets.lacks(feature), Vec::<&str>::new(), "{}", feature.name());
    }
}
