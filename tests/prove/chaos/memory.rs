//! A limit on the agent's memory by a control group, as containers have it.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the group may hold in addition to what the process has already, in bytes.
const ROOM: &str = "2097152";

/// The group's directory and the name of its limit, by the version of control groups there is.
fn group() -> (PathBuf, &'static str) {
    let name = format!("identity-spoa-chaos-{}", std::process::id());
    let first = Path::new("/sys/fs/cgroup/memory");
    if first.is_dir() {
        (first.join(name), "memory.limit_in_bytes")
    } else {
        (Path::new("/sys/fs/cgroup").join(name), "memory.max")
    }
}

/// Whether a process can be limited here.
pub fn is_possible() -> bool {
    let (group, limit) = group();
    let made = fs::create_dir(&group).is_ok();
    let limited = made && fs::write(group.join(limit), ROOM).is_ok();
    let _ = fs::remove_dir(&group);
    limited
}

/// Limits the process to a little more memory than it has; beyond that the kernel ends it.
pub fn limit(pid: u32) {
    let (group, limit) = group();
    let _ = fs::create_dir(&group);
    // What it had stays charged to the group it comes from.
    let _ = fs::write(group.join("cgroup.procs"), pid.to_string());
    let _ = fs::write(group.join(limit), ROOM);
    // Nothing is put aside: the machine may have a swap.
    let _ = fs::write(group.join("memory.swap.max"), "0");
}

/// Takes the group away; a process that is still in it goes back to where it was.
pub fn lift() {
    let (group, _) = group();
    if let (Some(parent), Ok(all)) =
        (group.parent(), fs::read_to_string(group.join("cgroup.procs")))
    {
        for pid in all.lines() {
            let _ = fs::write(parent.join("cgroup.procs"), pid);
        }
    }
    let _ = fs::remove_dir(&group);
}
