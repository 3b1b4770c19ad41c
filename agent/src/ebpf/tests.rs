use super::*;

fn status(effective: u64) -> String {
    format!("Name:\tagent\nCapPrm:\t0000000000000000\nCapEff:\t{effective:016x}\n")
}

#[test]
fn an_agent_without_its_programs_says_so_and_how_to_get_them() {
    let error = Probes::load_object(&ProbeConfig::default(), &[]).expect_err("an empty object");
    assert!(matches!(error, ProbeError::ObjectMissing));
    assert!(error.remedy().contains("cargo xtask ebpf"));
}

#[test]
fn missing_capabilities_are_named() {
    let missing = |effective| match check_privilege(&status(effective)) {
        Err(ProbeError::Privilege { missing }) => missing,
        other => format!("{other:?}"),
    };
    assert_eq!(missing(0), "CAP_PERFMON, CAP_BPF");
    assert_eq!(missing(1 << 39), "CAP_PERFMON");
    assert_eq!(missing(1 << 38 | 1 << 39), "Ok(())");
    assert_eq!(missing(1 << 21), "Ok(())");
}

#[test]
fn unknown_capabilities_leave_the_verdict_to_the_kernel() {
    assert!(check_privilege("").is_ok());
    assert!(check_privilege("CapEff:\tnonsense\n").is_ok());
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
