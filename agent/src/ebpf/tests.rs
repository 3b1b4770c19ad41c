use super::*;

#[test]
fn an_agent_without_its_programs_says_so_and_how_to_get_them() {
    let error = Probes::load_object(&ProbeConfig::default(), &[]).expect_err("an empty object");
    assert!(matches!(error, ProbeError::ObjectMissing));
    assert!(error.remedy().contains("cargo xtask ebpf"));
}

#[test]
fn every_error_has_a_remedy() {
    let no_hook =
        ProbeError::NoHook { pid: 1, filesystem: "xfs".to_owned(), syscall: "open tracefs".to_owned() };
    assert_eq!(no_hook.to_string(), "no hook for process 1: filesystem: xfs; syscall: open tracefs");
    for error in
        [no_hook, ProbeError::PidNamespace, ProbeError::NoSlot { slots: SLOTS }, ProbeError::ObjectMissing]
    {
        assert!(!error.remedy().is_empty());
    }
}
