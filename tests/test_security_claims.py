"""Every sentence of SECURITY.md on what is trusted and what is not, with the tests that check it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from fairbench import files, registry
from fairbench.data import folder
from fairbench.leaderboard import edited_csv
from fairbench.models import checkpoint
from fairbench.results import record
from fairbench.suites import mapping

TESTS = Path(__file__).parent
SECURITY = TESTS.parent / "SECURITY.md"

YAML = "suites and settings found by tuning (YAML): "
WEIGHTS = "checkpoints: "
ARRAYS = "`npz:` files, verdicts: "
PICTURES = "`folder:` pictures: "
RECORDS = "`run.json`, `resume.safetensors`: "
BOARDS = "leaderboard CSVs: "
NAMES = "names of suites, methods, policies, datasets: "
WORDS = "`--set`, attacks, seeds: "

# A cell of the table stands behind the words of its first column. Tests are named without `tests/`.
CHECKED_BY = {
    "Code that you install or name runs with your rights, without a sandbox:": (
        "cli/test_trust.py::test_code_named_on_the_command_line_runs_and_is_announced",
    ),
    "the package, its dependencies, and every installed package that registers plug-ins through the entry points "
    "`fairbench.methods`, `fairbench.datasets`, `fairbench.models`, `fairbench.attacks` or `fairbench.loggers`;": (
        "test_security_claims.py::test_the_groups_of_entry_points_are_those_of_the_registries",
        "test_registry.py::test_an_installed_plugin_whose_package_exits_is_one_line",
    ),
    "files given by `--plugin`, and functions named as `module:callable` on the command line (a model, `--arch`, the "
    "loss of an attack, `--set model=`).": (
        "cli/test_trust.py::test_a_suite_names_a_model_and_a_loss_that_a_plugin_registers",
        "cli/test_trust.py::test_code_named_on_the_command_line_runs_and_is_announced",
        "cli/test_trust.py::test_code_named_as_an_architecture_is_announced_before_the_file_is_opened",
    ),
    "A line on stderr names them before they are used;": (
        "test_security.py::test_a_plugin_is_named_before_its_code_runs",
        "cli/test_trust.py::test_code_named_as_an_architecture_is_announced_before_the_file_is_opened",
        "cli/test_trust.py::test_what_is_no_code_is_not_announced",
    ),
    "the `*.py` files of `./methods` in the working directory, as soon as a command names one of their methods or "
    "policies.": ("test_registry.py::test_plugin_from_the_folder_methods_of_the_working_directory",),
    "Listings parse these files without running them.": (
        "test_registry.py::test_details_are_read_before_anything_is_imported",
        "test_registry.py::test_methods_that_are_no_files_are_passed_over_and_deep_ones_are_one_line",
        "test_registry.py::test_a_loop_in_the_place_of_the_folder_of_methods",
        "fuzz/test_strangers.py::test_folders_of_methods",
    ),
    "A `fairbench run` in a folder from a stranger may run the code there;": (
        "run/launch/test_local.py::test_a_worker_finds_the_methods_of_the_working_directory",
    ),
    "the C compiler that `$CC` or the path names.": (
        "copies/test_native.py::test_the_compiler_is_the_one_that_is_asked_for",
    ),
    "`~/.cache/fairbench/native` caches the libraries compiled from the package's C files.": (
        "copies/test_native.py::test_it_is_compiled_once_for_all_processes",
    ),
    "A cached library is loaded only if you own it and its folder, and nobody else can write to them;": (
        "copies/test_native.py::test_a_library_that_others_could_have_written_is_not_loaded",
    ),
    "the nodes and the network of a Ray cluster, and everybody who can write to its shared results folder.": (
        "run/launch/test_ray.py::test_a_run_on_a_cluster_is_a_run_and_what_cannot_be_is_one_line",
    ),
    "Ray does not authenticate its users, so run a cluster on a private network.": (
        "run/launch/test_ray.py::test_a_run_on_a_cluster_is_a_run_and_what_cannot_be_is_one_line",
    ),
    "Nothing else is imported from the working directory: workers start with `python -P`, and the GitHub Action "
    "installs with `python -I`.": (
        "run/launch/test_local.py::test_a_worker_imports_nothing_from_the_working_directory",
        "test_action.py::test_no_module_of_the_pull_request_is_imported_by_the_installation",
    ),
    "The following inputs may come from strangers.": (
        "fuzz/test_words.py::test_suites_as_bytes",
        "fuzz/test_contents.py::test_bytes_of_an_archive",
        "fuzz/test_contents.py::test_bytes_of_a_board",
        "fuzz/test_contents.py::test_records_of_runs",
        "fuzz/test_strangers.py::test_bytes_of_checkpoints_of_torch",
        "fuzz/test_inputs.py::test_folders_of_pictures_of_any_kind",
    ),
    "They cannot run code, write outside the output folder of a command, or use more memory than ten times their size "
    "plus 500 MB, unless the table says otherwise.": (
        "fuzz/test_contents.py::test_pickles_run_nothing",
        "fuzz/test_strangers.py::test_suites_that_name_code",
        "fuzz/test_strangers.py::test_archives_that_claim",
        "fuzz/test_strangers.py::test_links_in_a_folder_of_results",
        "cli/test_trust.py::test_a_build_writes_nowhere_but_in_its_folder",
        "results/test_remote.py::test_names_there_do_not_lead_out_of_the_folder_here",
    ),
    "An invalid input gives one line on stderr and exit code 2.": (
        "cli/test_errors.py::test_wrong_input_is_one_line_on_stderr_and_exit_code_2",
        "cli/test_errors.py::test_files_with_wrong_content_are_one_line_that_names_them",
        "cli/test_inputs.py::test_an_error_is_one_line_in_any_encoding",
    ),
    YAML + "safe loader": (
        "suites/test_suite.py::test_what_is_no_suite_is_a_corrupt_file",
        "fuzz/test_words.py::test_a_suite_that_wants_to_harm_is_one_line_and_runs_nothing",
    ),
    YAML + "no key may be given twice": ("suites/test_suite.py::test_a_key_that_is_given_twice_is_refused",),
    YAML + "at most 1 MB and 100,000 values after aliases and merges": (
        "suites/test_mapping.py::test_a_file_has_so_many_bytes_and_no_more",
        "suites/test_mapping.py::test_aliases_unfold_to_so_many_values_and_no_more",
        "suites/test_mapping.py::test_merges_stop_before_they_have_multiplied",
    ),
    YAML + "every field validated.": (
        "suites/test_suite.py::test_a_wrong_value_is_one_line_with_the_file_and_the_place",
        "suites/test_chosen.py::test_a_file_of_tuned_settings_that_is_none_is_one_line",
    ),
    YAML + "`module:callable` is refused.": (
        "suites/test_suite.py::test_a_suite_that_names_code_is_refused_before_anything_is_imported",
        "suites/test_chosen.py::test_tuned_settings_name_no_code",
    ),
    YAML + "A suite in `./suites` cannot take the name of a built-in one": (
        "suites/test_suite.py::test_a_suite_in_the_working_directory_does_not_replace_a_built_in_one",
    ),
    WEIGHTS + "safetensors with a header of at most 10 MB": (
        "models/test_checkpoint.py::test_metadata_and_headers_that_are_larger_than_any_are_refused_unparsed",
    ),
    WEIGHTS
    + "`.pt`, `.pth`, `.ckpt` by a reader that builds only tensors and plain containers and checks the size of every "
    "tensor against the bytes in the file": (
        "test_security.py::test_a_checkpoint_that_would_run_code_is_refused_and_did_not",
        "models/test_pickled.py::test_a_hostile_file_is_one_line_and_takes_neither_memory_nor_time",
        "models/test_pickled_guards.py::test_each_guard_refuses_by_itself",
    ),
    ARRAYS + "`allow_pickle=False`": ("test_security.py::test_arrays_that_would_run_code_are_refused_and_did_not",),
    ARRAYS
    + "before an array is allocated, its header is checked against the size of the file and all arrays against a "
    "memory limit": (
        "test_security.py::test_a_header_that_promises_more_than_the_file_has_allocates_nothing",
        "test_security.py::test_a_bomb_among_verdicts_is_refused",
        "data/test_npz.py::test_elements_that_take_no_room_are_refused",
        "data/test_npz.py::test_arrays_may_unpack_to_so_much_more_than_their_file_and_not_more",
    ),
    PICTURES
    + "regular files of seven formats that Pillow decodes itself, after the headers have shown that all sizes are "
    "equal": (
        "data/test_folder.py::test_only_formats_of_pictures_are_opened_whatever_a_name_says",
        "data/test_folder.py::test_a_picture_of_another_size_is_named",
        "fuzz/test_inputs.py::test_folders_of_pictures_of_any_kind",
    ),
    PICTURES + "at most 2^24 pixels each, and together 50 times the bytes of their files plus 150 MB": (
        "data/test_folder.py::test_a_small_file_may_not_take_much_memory",
        "data/test_folder.py::test_many_small_files_may_not_take_much_memory_together",
    ),
    RECORDS + "JSON of at most 16 MB and safetensors": (
        "test_files.py::test_json_that_would_take_memory_out_of_proportion_is_refused_unread",
        "train/test_resume.py::test_a_state_of_a_stranger_with_a_right_checksum_is_one_line",
    ),
    RECORDS + "regular files only": (
        "test_files.py::test_pipes_and_devices_are_not_read",
        "cli/test_inputs.py::test_a_pipe_in_a_run_is_one_line",
        "train/test_resume.py::test_a_pipe_a_device_and_a_folder_are_no_state",
    ),
    RECORDS + "checksums of the neighbouring files and of their own content": (
        "results/test_folder.py::test_a_file_that_changed_is_found_and_one_that_was_left_out_is_not_missed",
        "results/test_folder.py::test_any_flipped_bit_of_a_record_is_found_or_changes_nothing",
        "train/test_resume.py::test_a_state_that_changed_after_it_was_stored_is_one_line",
    ),
    RECORDS + "at most 50 protocols and 1,000 attacks": (
        "results/test_record.py::test_a_record_has_so_many_protocols_and_attacks_and_no_more",
    ),
    BOARDS + "regular files of at most 256 MB, typed and checked row by row": (
        "cli/test_inputs.py::test_a_leaderboard_has_a_size",
        "cli/test_inputs.py::test_no_command_reads_a_pipe_or_a_device",
        "leaderboard/test_schema.py::test_what_breaks_the_schema_is_one_line_with_the_row_and_the_column",
    ),
    BOARDS + "cells of a few letters take thirty times their text in memory": (
        "leaderboard/test_edited_csv.py::test_cells_of_two_letters_take_at_most_thirty_times_their_text",
    ),
    NAMES + "only letters, digits, `_`, `.`, `-`, `+`, of limited length, before they become folders": (
        "test_security.py::test_a_suite_name_that_is_no_folder_name_is_refused",
        "test_security.py::test_no_name_leads_out_of_its_folder",
        "test_registry.py::test_names_that_could_not_be_part_of_a_path_are_refused",
    ),
    WORDS + "parsed to numbers and words, never evaluated": (
        "plugins/test_calls.py::test_parse_value",
        "plugins/test_calls.py::test_parse_call_refuses",
        "fuzz/test_words.py::test_settings",
    ),
    WORDS + "imported only in the cases listed above": (
        "cli/test_trust.py::test_what_is_no_code_is_not_announced",
        "fuzz/test_words.py::test_settings",
    ),
    "The folder given by `--out` may be a symbolic link.": (
        "results/test_folder.py::test_a_run_is_written_where_the_folder_given_is_a_link",
    ),
    "Linked folders below it are refused.": (
        "results/test_folder.py::test_a_run_is_not_written_through_a_linked_folder",
        "leaderboard/test_build_lock.py::test_a_build_does_not_write_through_a_linked_folder",
        "evaluation/test_folder_kills.py::test_a_linked_folder_of_partial_verdicts_is_refused",
        "test_files.py::test_links_are_refused_below_the_folder_given_and_not_above_it",
    ),
    "Files are replaced, never written through a link, and lock files and journals are opened with `O_NOFOLLOW`.": (
        "test_files.py::test_an_atomic_write_replaces_a_link_and_leaves_what_it_leads_to",
        "test_files.py::test_a_link_or_a_file_in_the_place_of_the_temporary_file_is_not_written_to",
        "test_files.py::test_no_lock_file_is_opened_through_a_link",
        "evaluation/test_journal.py::test_nothing_is_written_through_a_link_nor_read_from_a_pipe",
    ),
    "The umask decides who may read results.": (
        "test_files.py::test_the_umask_decides_who_may_read_what_is_written",
        "test_security.py::test_what_is_written_is_readable_by_all_and_writable_by_its_owner_alone",
    ),
    "Results, leaderboards, folder names and messages contain no user, password, query or fragment of a URL.": (
        "cli/test_trust.py::test_credentials_of_a_url_are_neither_kept_nor_shown",
        "results/test_address.py::test_no_secret_is_left_and_the_place_is_all_there",
        "fuzz/test_strangers.py::test_secrets_of_urls",
    ),
    "Control characters are escaped in all output.": (
        "cli/test_terminal.py::test_what_would_steer_a_terminal_is_shown_as_an_escape",
        "cli/test_terminal.py::test_errors_hold_no_control_characters",
        "report/text/test_gate.py::test_terminals_are_not_steered_by_names",
        "report/html/test_page.py::test_control_characters_of_names_are_shown_as_escapes",
        "report/html/test_model.py::test_names_of_classes_cannot_steer_a_terminal",
        "fuzz/test_strangers.py::test_boards_that_steer_a_terminal_or_a_spreadsheet",
    ),
    "In CSV files, text that a spreadsheet would take for a formula starts with a `'`.": (
        "leaderboard/test_board.py::test_no_text_of_a_board_is_a_formula_and_all_come_back",
    ),
    "`fairbench show` prints only the commands `git checkout COMMIT`, `pip install torch==VERSION` and `fairbench run "
    "...`, quoted for a shell, and omits commands of any other form.": (
        "leaderboard/test_lineage.py::test_commands_to_copy_run_fairbench_alone",
        "leaderboard/test_lineage.py::test_a_command_with_quotes_that_do_not_end_is_left_out",
        "leaderboard/test_lineage.py::test_no_cell_makes_a_line_of_its_own_or_steers_the_terminal",
    ),
    "Names of classes, methods and suites are escaped in HTML, Markdown and LaTeX.": (
        "report/html/test_site.py::test_names_that_users_choose_are_shown_as_text",
        "report/html/test_page.py::test_what_users_name_is_text",
        "report/html/test_model.py::test_names_that_are_markup_are_text",
        "report/text/test_gate.py::test_no_name_is_a_link_a_mention_or_markup_in_a_comment",
        "report/text/test_sheet.py::test_markdown_is_a_table_that_names_cannot_break",
        "report/text/test_sheet.py::test_latex_is_a_tabular_that_names_cannot_break",
    ),
    "A run records the commit of its code only if the repository tracks the files of the package; otherwise it records "
    "`unknown`.": (
        "results/test_provenance.py::test_a_clean_checkout_names_its_commit",
        "results/test_provenance.py::test_a_copy_inside_another_repository_has_no_commit",
        "results/test_provenance.py::test_the_environment_does_not_lead_git_elsewhere",
    ),
    "Checksums detect damage, not malice: whoever can write a file can also write its checksum.": (
        "results/test_folder.py::test_any_flipped_bit_of_a_record_is_found_or_changes_nothing",
        "train/test_resume.py::test_a_state_of_a_stranger_with_a_right_checksum_is_one_line",
    ),
    "A result is as trustworthy as the machine that made it.": (
        "run/submission/test_check.py::test_what_is_not_as_it_should_be_is_named",
    ),
    "Afterwards one can check that the committed weights give the committed verdicts.": (
        "test_committed_results.py::test_committed_weights_give_their_committed_verdicts",
    ),
}


def claims() -> list[str]:
    """The sentences of the two sections; a cell of the table follows the words of its first column."""
    text = SECURITY.read_text(encoding="utf-8")
    sections = text.split("## What is trusted")[1].split("## Which tests check it")[0]
    found = []
    for block in (" ".join(part.split()) for part in re.split(r"\n(?=\n|- |\|)", sections)):
        if block.startswith("| ") and not block.startswith(("| what", "| ---")):
            what, how = block.strip("| ").split(" | ")
            found += [f"{what}: {cell}" for cell in re.split(r"; |(?<=\.) (?=[A-Z`])", how)]
        elif block and not block.startswith(("#", "|")):
            found += re.split(r"(?<=[.;]) (?=[A-Z`])", block.removeprefix("- "))
    return found


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_sentence_has_tests_and_no_other_has():
    assert claims() == list(CHECKED_BY)


@pytest.mark.parametrize("claim", CHECKED_BY)
def test_the_tests_of_a_sentence_exist(claim):
    assert CHECKED_BY[claim]
    for place in CHECKED_BY[claim]:
        file, _, name = place.partition("::")
        assert name in functions(file), place


def test_limits_are_those_of_the_code():
    said = SECURITY.read_text(encoding="utf-8")
    for limit in (
        f"at most {mapping.MAX_SUITE_BYTES // 10**6} MB and {mapping.MAX_SUITE_VALUES:,} values",
        f"a header of at most {checkpoint.MAX_HEADER // 10**6} MB",
        f"JSON of at most {files.MAX_JSON_BYTES // 10**6} MB",
        f"at most {record.MAX_PROTOCOLS} protocols and {record.MAX_ROWS:,} attacks",
        f"regular files of at most {edited_csv.MAX_BYTES // 10**6} MB",
        f"together {folder._GROWTH} times the bytes of their files plus {folder._FREE_BYTES // 10**6} MB",
    ):
        assert limit in said
    assert len(folder._FORMATS) == 7
    assert folder._MOST_PIXELS == 2**24
    assert "of seven formats" in said
    assert "at most 2^24 pixels each" in said


def test_the_groups_of_entry_points_are_those_of_the_registries():
    known = (value for value in vars(registry).values() if isinstance(value, registry.Registry))
    assert {one.group for one in known} == set(re.findall(r"`(fairbench\.\w+)`", claims()[1]))
