//! Which cgroup, container and pod a process belongs to, from `/proc/PID/cgroup`.

/// Where a process runs, as the names of its cgroup tell.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Path of the cgroup: that of the unified hierarchy, else of the memory or CPU controller, else the first.
    pub cgroup: String,
    /// Container id of 64 hexadecimal digits; empty outside a container.
    pub container_id: String,
    /// UID of the Kubernetes pod with dashes, or the 32-digit hash of a static pod; empty outside a pod.
    pub pod_uid: String,
}

impl Placement {
    /// From the text of `/proc/PID/cgroup`.
    pub fn parse(text: &str) -> Self {
        let cgroup = cgroup_path(text).unwrap_or_default();
        let mut placement = Self { cgroup: cgroup.to_owned(), ..Self::default() };
        for component in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|p| p.split('/'))
        {
            if placement.container_id.is_empty()
                && let Some(id) = container_id(component)
            {
                placement.container_id = id.to_owned();
            }
            if placement.pod_uid.is_empty()
                && let Some(uid) = pod_uid(component)
            {
                placement.pod_uid = uid;
            }
        }
        placement
    }
}

fn cgroup_path(text: &str) -> Option<&str> {
    let paths = || {
        text.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?, parts.next()?))
        })
    };
    let by_controller = |wanted: &str| {
        paths().find(|(names, _)| names.split(',').any(|name| name == wanted)).map(|(_, path)| path)
    };
    let unified = paths().find(|(names, path)| names.is_empty() && *path != "/").map(|(_, path)| path);
    unified
        .or_else(|| by_controller("memory"))
        .or_else(|| by_controller("cpu"))
        .or_else(|| paths().next().map(|(_, path)| path))
}

/// `cri-containerd-<64 hex>.scope`, `docker-<64 hex>.scope`, plain `<64 hex>` and the like.
fn container_id(component: &str) -> Option<&str> {
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let id = name.rsplit(['-', ':']).next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// `kubepods-burstable-pod<uid with underscores>.slice` (systemd driver) or `pod<uid>` (cgroupfs driver).
fn pod_uid(component: &str) -> Option<String> {
    let name = component.strip_suffix(".slice").unwrap_or(component);
    let start = name.rfind("pod").filter(|at| *at == 0 || name.as_bytes()[at - 1] == b'-')?;
    let uid = name[start + 3..].replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let plain = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (plain && digits == 32).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3c0d8d3f2cf7a8a9a3f3cf0a61d5b8f3d1b6a5c4d3e2f1a0b9c8d7e6f5a4b3c2";

    #[test]
    fn a_systemd_unit_has_a_cgroup_and_no_container() {
        let placement = Placement::parse("0::/system.slice/etcd.service\n");
        assert_eq!(placement.cgroup, "/system.slice/etcd.service");
        assert_eq!((placement.container_id.as_str(), placement.pod_uid.as_str()), ("", ""));
    }

    #[test]
    fn both_cgroup_drivers_of_kubernetes_are_read() {
        let systemd = format!(
            "0::/kubepods.slice/kubepods-burstable.slice/\
             kubepods-burstable-pod1f2e3d4c_aaaa_bbbb_cccc_0123456789ab.slice/cri-containerd-{ID}.scope\n"
        );
        let placement = Placement::parse(&systemd);
        assert_eq!(placement.container_id, ID);
        assert_eq!(placement.pod_uid, "1f2e3d4c-aaaa-bbbb-cccc-0123456789ab");

        let cgroupfs =
            format!("4:memory:/kubepods/burstable/pod0123456789abcdef0123456789abcdef/{ID}\n1:cpu:/x\n");
        let placement = Placement::parse(&cgroupfs);
        assert_eq!(placement.container_id, ID);
        assert_eq!(placement.pod_uid, "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn on_cgroup_v1_the_memory_controller_names_the_path() {
        let placement = Placement::parse("9:hugetlb:/\n5:cpu,cpuacct:/lab/cpu\n4:memory:/lab/m1\n0::/\n");
        assert_eq!(placement.cgroup, "/lab/m1");
    }

    #[test]
    fn garbage_is_no_container() {
        for text in ["", ":::::", "\n\n", "0", "1:2", "0::/pod/pod-/podé\u{0}", "0::/docker-zz.scope"] {
            let placement = Placement::parse(text);
            assert_eq!((placement.container_id.as_str(), placement.pod_uid.as_str()), ("", ""), "{text:?}");
        }
    }
}
