use super::*;

fn status(effective: u64) -> String {
    format!("Name:\tagent\nCapPrm:\t0000000000000000\nCapEff:\t{effective:016x}\n")
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
fn a_hierarchy_of_its_own_is_told_from_the_default_one() {
    assert!(has_separate_io_cgroups("#subsys_name\thierarchy\ncpu\t0\t4\t1\nblkio\t7\t18\t1\n"));
    assert!(!has_separate_io_cgroups("#subsys_name\thierarchy\ncpu\t3\t4\t1\nblkio\t0\t18\t1\n"));
    assert!(!has_separate_io_cgroups(""));
}
