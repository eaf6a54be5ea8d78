//! The command line as people type it.
#![allow(clippy::unwrap_used)]

use clap::{CommandFactory, Parser};

use super::global::OutputFormat;
use super::{Cli, Command};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn command(line: &str) -> Command {
    parse(line)
        .map(|cli| cli.command)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn every_documented_line_is_understood() {
    for line in [
        "stacyvm serve",
        "stacyvm serve --host 127.0.0.1 --port 0 --data-dir /tmp/x --provider mock --log-format pretty",
        "stacyvm run -- python3 -c print(1)",
        "stacyvm run --image host --memory 512 --vcpus 2 --timeout 5s --env A=b -e C=d --read-only --user root -- true",
        "stacyvm spawn --image python:3.12 --ttl 1h",
        "stacyvm exec sb-a1b2c3d4 -- python3 app.py",
        "stacyvm exec -it sb-a1b2c3d4 -- python3",
        "stacyvm exec -T -n sb-a1b2c3d4 -- ls",
        "stacyvm list",
        "stacyvm ls --state running",
        "stacyvm kill sb-a1b2c3d4",
        "stacyvm run --vcpus 0.5 --disk 512 -- true",
        "stacyvm stats sb-a1b2c3d4",
        "stacyvm logs sb-a1b2c3d4 --lines 5",
        "stacyvm logs -f -n 5 sb-a1b2c3d4",
        "stacyvm events",
        "stacyvm events --type sandbox.* -t exec.failed --sandbox sb-a1b2c3d4 --output json",
        "stacyvm events --after evt-7",
        "stacyvm events --replay",
        "stacyvm cp a.txt sb-a1b2c3d4:/workspace/a.txt",
        "stacyvm image import rootfs.tar name",
        "stacyvm image pull ghcr.io/team/tool@sha256:00 --always",
        "stacyvm image load images.tar.gz",
        "stacyvm image save python:3.12 alpine -o images.tar",
        "stacyvm image list",
        "stacyvm image inspect alpine",
        "stacyvm image tag alpine team/alpine:1",
        "stacyvm image prune --all --dry-run",
        "stacyvm run --image python:3.12",
        "stacyvm image rm name",
        "stacyvm doctor --json",
        "stacyvm config show",
        "stacyvm config lint --config x.yaml",
        "stacyvm bench --iterations 10 --mode sequential,burst --rows create,exec --json out.json",
        "stacyvm version",
        "stacyvm completions bash",
        "stacyvm --server http://h:1 --api-key k --user-id u --output json list",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for line in [
        "stacyvm",
        "stacyvm image",
        "stacyvm image save alpine",
        "stacyvm image rm",
        "stacyvm run --memroy 5 -- true",
        "stacyvm run --env NAME -- true",
        "stacyvm run --timeout 1d -- true",
        "stacyvm exec sb-a1b2c3d4",
        "stacyvm kill",
        "stacyvm logs sb-a1b2c3d4 --lines 0",
        "stacyvm list --state happy",
        "stacyvm events --replay --after evt-7",
        "stacyvm list --output xml",
        "stacyvm frobnicate",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn options_behind_the_command_belong_to_the_command() {
    for line in [
        "stacyvm exec sb-1 -- ls --user root -l",
        "stacyvm exec sb-1 ls --user root -l",
    ] {
        let Command::Exec(args) = command(line) else {
            panic!("{line}")
        };
        assert_eq!(args.words(), ["ls", "--user", "root", "-l"], "{line}");
    }
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        "stacyvm --output json --server http://h:1 list",
        "stacyvm list --output json --server http://h:1",
    ] {
        let global = parse(line)
            .map(|cli| cli.global)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(global.output, OutputFormat::Json);
        assert_eq!(global.server.as_deref(), Some("http://h:1"));
    }
}
