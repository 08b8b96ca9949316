# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What every Makefile.am includes. Includes are written from the root of the
# source tree: #include "core/base/result.h".

AM_CPPFLAGS = -I$(top_srcdir) $(PROJECT_CPPFLAGS)
AM_CXXFLAGS = $(PROJECT_CXXFLAGS)
AM_LDFLAGS = $(PROJECT_LDFLAGS)

# So that the last line of `make check` is the summary.
AM_MAKEFLAGS = --no-print-directory

# A shell command: all processors, unless -j was given by hand.
set_jobs = case " $$MAKEFLAGS" in \
	*" -j"*|*--jobserver*) jobs= ;; \
	*) jobs=-j$$(nproc 2>/dev/null || echo 2) ;; \
	esac
