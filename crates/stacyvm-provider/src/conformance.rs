//! The one suite that every provider passes: what a sandbox does, whichever provider makes it.
//!
//! Owns the checks and how they are run; not the machinery that a provider needs to be set up,
//! which its own tests bring as a `Harness`. Its rule: where a provider lacks a capability, the
//! check asserts the refusal instead of being left out.
//!
//! A provider's test file says
//! `stacyvm_provider::conformance_tests!(harness);` where `async fn harness() -> Option<impl
//! Harness>` makes a fresh one for each check, or says why this machine cannot run it and makes none.

pub mod archives;
pub mod commands;
pub mod detached;
pub mod escapes;
pub mod files;
pub(crate) mod harness;
pub mod life;
pub mod network;
mod sandbox;
pub mod trees;

use std::time::Duration;

use anyhow::{Context, Result};

pub use harness::{Harness, WAIT_TIMEOUT, eventually};
pub use sandbox::{Finished, Sandbox, spec};

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(240);

/// Runs one check; used by [`conformance_tests!`](crate::conformance_tests).
///
/// # Panics
/// When the check fails, naming it and the provider, and when it left something behind.
pub async fn run<H: Harness>(
    name: &str,
    harness: Option<H>,
    check: impl AsyncFnOnce(&mut dyn Harness) -> Result<()>,
) {
    let Some(mut harness) = harness else {
        // The harness function has printed why this machine cannot run the check.
        return;
    };
    let provider = harness.provider().name();
    let outcome = tokio::time::timeout(CHECK_TIMEOUT, check(&mut harness))
        .await
        .context("it takes too long")
        .flatten();
    let cleaned = clean_up(&mut harness).await;
    if let Err(error) = outcome.and(cleaned) {
        panic!("provider {provider} fails the check {name}: {error:#}");
    }
}

/// Destroys what the check left and looks for remains.
async fn clean_up(harness: &mut dyn Harness) -> Result<()> {
    let provider = harness.provider();
    for found in provider.list().await.context("list")? {
        provider.destroy(&found.id).await.context("destroy")?;
        let left = harness.leftovers(&found.id).await;
        anyhow::ensure!(left.is_empty(), "destroying {} left {left:?}", found.id);
    }
    let left = provider.list().await.context("list again")?;
    anyhow::ensure!(left.is_empty(), "{left:?} cannot be destroyed");
    provider.close().await;
    Ok(())
}

/// Makes one `#[tokio::test]` of each check. The argument is an `async fn() -> Option<impl Harness>`.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:path) => {
        $crate::conformance_tests! { @each $harness;
            life {
                is_healthy_and_says_what_it_is
                a_sandbox_lives_and_is_gone_when_destroyed
                unknown_ids_are_answered_as_such
                an_id_cannot_be_used_twice
                images_are_checked
                defaults_of_the_spec_reach_every_command
                a_read_only_rootfs_or_a_refusal
                limits_or_no_claim_of_them
                stats_or_no_claim_of_them
                many_sandboxes_at_once
                a_restart_keeps_sandboxes_and_what_runs_in_them
                a_dead_workload_is_noticed
                destroying_ends_running_commands
            }
            commands {
                exit_codes_and_streams_arrive
                arguments_arrive_literally
                variables_are_visible
                the_default_directory_is_the_workspace
                a_missing_directory_is_invalid
                a_missing_program_exits_127
                standard_input_arrives_and_ends
                without_standard_input_it_is_empty
                death_by_signal_is_128_and_its_number
                users_are_looked_up_inside
                much_output_arrives_whole
                many_commands_at_once
                a_terminal_or_a_refusal
                output_is_kept_in_the_log
                usage_is_counted
            }
            detached {
                output_is_kept_and_read_again
                one_command_is_told_and_waited_for_by_many
            }
            trees {
                a_timeout_kills_the_whole_tree
                a_lost_client_kills_the_whole_tree
                a_kill_reaches_the_whole_tree
                a_survivor_survives_its_client
                a_background_child_lives_on
                orphans_are_killed_when_asked
            }
            files {
                what_is_written_is_read
                writing_is_atomic
                a_big_file_goes_in_and_out
                ranges_are_parts
                directories_are_made_and_listed
                moving_and_removing_have_their_errors
                modes_are_changed
                patterns_find_files
                commands_and_files_see_the_same
                bad_paths_are_invalid
            }
            archives {
                directories_go_out_and_in
                hostile_entries_are_refused
                what_is_no_archive_is_invalid
            }
            escapes {
                links_lead_nowhere_outside
                dots_lead_nowhere_outside
            }
            network {
                a_port_inside_is_reached
                a_port_inside_is_one_stream
                a_closed_port_is_an_error
            }
        }
    };
    (@each $harness:path; $($module:ident { $($check:ident)* })*) => {
        $($(
            #[tokio::test]
            async fn $check() {
                $crate::conformance::run(
                    concat!(stringify!($module), "::", stringify!($check)),
                    $harness().await,
                    async |harness: &mut dyn $crate::conformance::Harness| {
                        $crate::conformance::$module::$check(harness).await
                    },
                )
                .await;
            }
        )*)*
    };
}
