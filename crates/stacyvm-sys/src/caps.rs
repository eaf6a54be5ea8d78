//! Capabilities, and the settings through which a program could regain them.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, set_capabilities, set_capabilities_secure_bits,
};

pub use rustix::thread::CapabilitySet as Set;

/// The capabilities of the calling process.
///
/// # Errors
/// The error of the system call.
pub fn effective() -> Result<CapabilitySet> {
    capabilities(None).map(|sets| sets.effective)
}

/// Keeps only `kept` and makes sure that no program started from here ever gets more: the bounding,
/// inheritable and ambient sets are emptied, user 0 loses its special treatment, and all of it is
/// locked.
///
/// # Errors
/// The error of the system call.
pub fn confine(kept: CapabilitySet) -> Result<()> {
    let held = capabilities(None)?.permitted;
    if held.contains(CapabilitySet::SETPCAP) {
        set_capabilities_secure_bits(
            CapabilitiesSecureBits::NO_ROOT
                | CapabilitiesSecureBits::NO_ROOT_LOCKED
                | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
                | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
                | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
        )?;
        empty_bounding_set()?;
    }
    clear_ambient_capability_set()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept & held,
            permitted: kept & held,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Keeps `own` effective and `handed_on` available for programs started from here, and makes sure that
/// none of them ever gets more than `handed_on`. User 0 stays special, so that such a program keeps
/// them through an exec; nothing is inheritable. Returns the capabilities that can be handed on.
///
/// # Errors
/// The error of the system call.
pub fn confine_to(own: CapabilitySet, handed_on: CapabilitySet) -> Result<CapabilitySet> {
    let held = capabilities(None)?.permitted;
    let handed_on = handed_on & held;
    if held.contains(CapabilitySet::SETPCAP) {
        lower_bounding_set(handed_on)?;
    } else {
        // The bounding set stays as it is, so nothing may be taken from it at an exec.
        rustix::thread::set_no_new_privs(true)?;
    }
    match clear_ambient_capability_set() {
        // A kernel without ambient capabilities (gVisor) has none to clear.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: own & held,
            permitted: (own & held) | handed_on,
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(handed_on)
}

/// Makes every permitted capability of `own` effective again, after a change of the effective user.
///
/// # Errors
/// The error of the system call.
pub fn raise(own: CapabilitySet) -> Result<()> {
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: own & held.permitted,
            ..held
        },
    )
}

fn empty_bounding_set() -> Result<()> {
    lower_bounding_set(CapabilitySet::empty())
}

fn lower_bounding_set(kept: CapabilitySet) -> Result<()> {
    for number in 0..64_u32 {
        if kept.bits() >> number & 1 == 1 {
            continue;
        }
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match crate::check(result.into()) {
            Ok(_) => {}
            // The first number that this kernel does not know: all are done.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
